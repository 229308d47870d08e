"""Where a pod or an instance gets its credentials: the instance's metadata (IMDSv2 only) and the EKS pod identity agent.

    instance   PUT /latest/api/token, then GET /latest/meta-data/iam/security-credentials/[node-role] with that token
    pod        GET /v1/credentials with the pod's own token in Authorization

`issue` is called for every answer, so credentials rotate as it likes. `asked` lists method and path of each request; a request
that lacks what it must bring gets 401 and is listed too. `fails` answers that many requests with 503 first.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

ROLE = "node-role"
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_ROLES = "/latest/meta-data/iam/security-credentials/"

Issue = Callable[[], Mapping[str, str]]
"""AccessKeyId, SecretAccessKey, Token, Expiration."""


class IdentityService:
    """Both services on one address. `pod_token`: what a pod must bring."""

    def __init__(self, issue: Issue, *, host: str = "127.0.0.1", port: int = 0, pod_token: str = "pod-token") -> None:
        self.asked: list[str] = []
        self.fails = 0
        self._issue, self._pod_token = issue, pod_token
        self._sessions: set[str] = set()
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._server.daemon_threads = False
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="identity")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and body."""
        self.asked.append(f"{method} {path}")
        if self.fails:
            self.fails -= 1
            return 503, "later"
        if path == "/v1/credentials":
            return (200, self._credentials()) if headers.get("authorization") == self._pod_token else (401, "no token")
        if method == "PUT" and path == "/latest/api/token":
            if not headers.get(_TTL, "").isdigit():
                return 400, "no lifetime"
            self._sessions.add(token := secrets.token_urlsafe(16))
            return 200, token
        if headers.get("x-aws-ec2-metadata-token") not in self._sessions:
            return 401, "version 1 is off"
        if path.rstrip("/") == _ROLES.rstrip("/"):
            return 200, ROLE
        return (200, self._credentials()) if path == _ROLES + ROLE else (404, "nothing")

    def _credentials(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now, **self._issue()})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, text = service.answer(self.command, self.path, headers)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if self.command == "PUT":
                    self.send_header(_TTL, headers.get(_TTL, "21600"))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = _serve  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                return

        return Handler
