"""A small broker for tests of the node: real HTTPS, the messages of api/brokerage.py, models that a test puts in.

with Broker(tmp_path, Hostile()) as broker:
    model = broker.put("llama", {"config.json": b"{}"})       # its bytes are served by the origin
    broker.grant("team-a", "hf://org/llama", model)           # who may mount it
    broker.down = True                                        # 503 to everything
"""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from prestage.api.brokerage import (
    STATUSES,
    Fetch,
    FetchesAnswer,
    FetchesRequest,
    GrantedMount,
    ManifestAnswer,
    ManifestRequest,
    Message,
    MountsAnswer,
    MountsRequest,
    Refusal,
)
from prestage.api.nodes import ErrorClass
from prestage.cacher.digests import Digest
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from servers.certs import Authority
from servers.hostile import Hostile


@dataclass(frozen=True, slots=True)
class Model:
    """What a test put in."""

    name: str
    manifest: Manifest
    contents: Mapping[str, bytes]

    @property
    def artifact(self) -> str:
        return self.manifest.artifact


class Refuse(Exception):
    """Becomes a Refusal."""

    def __init__(self, error_class: ErrorClass, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(error_class=error_class, code=code, message=message)


@dataclass(slots=True)
class Asked:
    """One question."""

    path: str
    token: str
    message: Message


class Broker:
    """See the module."""

    def __init__(
        self, folder: Path, origin: Hostile | None = None, *, host: str = "127.0.0.1", token: str = "a-nodes-token"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(folder / "broker-tls", (host, "localhost"))
        self.ca, self.token = authority.ca, folder / "broker-token"
        self.token.write_text(token)
        self._origin = origin
        self.models: dict[str, Model] = {}
        self.grants: dict[tuple[str, str], Model] = {}
        """Namespace and ref."""
        self.plan: set[str] | None = None
        """What the node's NodeCache lists; None: everything."""
        self.down = False
        self.fresh_s, self.valid_s = 3600.0, 86400.0
        self.expires_s: float | None = 900.0
        self.asked: list[Asked] = []
        self.allowed = ["127.0.0.0/8", "10.0.0.0/8"]
        broker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                broker._handle(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not on stderr."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = authority.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="test-broker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def origin(self) -> Hostile:
        assert self._origin is not None
        return self._origin

    def forget(self, origin: Hostile) -> None:
        """As it was at first, with another origin."""
        self._origin = origin
        self.models.clear()
        self.grants.clear()
        self.asked.clear()
        self.plan, self.down, self.expires_s = None, False, 900.0
        self.fresh_s, self.valid_s = 3600.0, 86400.0

    def put(self, name: str, contents: Mapping[str, bytes], *, hub: bool = True, served: bool = True) -> Model:
        """A model whose bytes the origin serves, unless told otherwise (`serve`)."""
        entries = [
            FileEntry(path, len(data), digest=Digest(f"sha256:{hashlib.sha256(data).hexdigest()}"))
            for path, data in contents.items()
        ]
        authority = f"hf:https://hub.test/org/{name}" if hub else f"s3:https://s3.test/{name}"
        model = Model(name, manifest_of(authority, "", entries, revision="a" * 40 if hub else None), contents)
        self.models[model.artifact] = model
        if served:
            self.serve(model)
        return model

    def serve(self, model: Model) -> None:
        for path, data in model.contents.items():
            self.origin.put(_place(model, path), data)

    def grant(self, namespace: str, ref: str, model: Model) -> None:
        self.grants[namespace, ref] = model

    def questions(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    # -- how it answers

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            if self.down:
                raise Refuse(ErrorClass.UNAVAILABLE, "Down", "the broker is down")
            if token != self.token.read_text():
                raise Refuse(ErrorClass.DENIED, "NoToken", "who are you?")
            answer, status = self._answer(request.path, body, token), 200
        except Refuse as exc:
            answer, status = exc.refusal, STATUSES[exc.refusal.error_class]
        raw = msgspec.json.encode(answer)
        request.send_response(status)
        request.send_header("Content-Length", str(len(raw)))
        request.send_header("Connection", "close")  # no thread of ours outlives a test
        request.end_headers()
        request.wfile.write(raw)

    def _answer(self, path: str, body: bytes, token: str) -> Message:
        if path == "/v1/manifest":
            wanted = msgspec.json.decode(body, type=ManifestRequest)
            self.asked.append(Asked(path, token, wanted))
            return ManifestAnswer(manifest=self._planned(wanted.artifact).manifest.to_bytes().decode())
        if path == "/v1/fetches":
            fetches = msgspec.json.decode(body, type=FetchesRequest)
            self.asked.append(Asked(path, token, fetches))
            return self._fetches(fetches)
        if path == "/v1/mounts":
            mounts = msgspec.json.decode(body, type=MountsRequest)
            self.asked.append(Asked(path, token, mounts))
            return self._mounts(mounts)
        raise Refuse(ErrorClass.NOT_FOUND, "NoSuchPath", path)

    def _planned(self, artifact: str) -> Model:
        if self.plan is not None and artifact not in self.plan:
            raise Refuse(ErrorClass.DENIED, "NotInPlan", f"{artifact} is not in this node's NodeCache")
        if artifact not in self.models:
            raise Refuse(ErrorClass.NOT_FOUND, "NoSuchArtifact", f"there is no {artifact}")
        return self.models[artifact]

    def _fetches(self, request: FetchesRequest) -> FetchesAnswer:
        model = self._planned(request.artifact)
        expires_at = None if self.expires_s is None else time.time() + self.expires_s
        fetches = [
            Fetch(path=path, url=self.origin.url(_place(model, path)), headers={"X-Signed": "yes"}, expires_at=expires_at)
            for path in request.paths
        ]
        return FetchesAnswer(fetches=fetches, authority=model.manifest.authority, allowed_cidrs=self.allowed)

    def _mounts(self, request: MountsRequest) -> MountsAnswer:
        granted = []
        for wanted in request.models:
            model = self.grants.get((request.pod.namespace, wanted.ref))
            if model is None or wanted.artifact not in (None, model.artifact):
                raise Refuse(ErrorClass.DENIED, "NoGrant", f"{request.pod.namespace} has no grant for {wanted.ref}")
            is_hub = model.manifest.authority.startswith("hf:")
            granted.append(
                GrantedMount(
                    alias=wanted.alias,
                    artifact=model.artifact,
                    rule=f"namespace {request.pod.namespace} resolved it",
                    repo=f"org/{model.name}" if is_hub else None,
                    revision="main" if is_hub else None,
                )
            )
        now = time.time()
        return MountsAnswer(models=granted, fresh_until=now + self.fresh_s, valid_until=now + self.valid_s)


def _place(model: Model, path: str) -> str:
    return f"/{model.name}/{urllib.parse.quote(path)}"
