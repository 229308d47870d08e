"""The faults of servers.hostile in front of a real server: it answers, then the fault makes its answer wrong.

    with Relay(versitygw.port, is_data=lambda request: request.path.endswith(".safetensors")) as relay:
        relay.faults += [Reset(), *storm(503, 3)]      # one for each request for data, in order
        environ = {**versitygw.environment, "AWS_ENDPOINT_URL": relay.url("")}

Requests go on as they came, Host included, so that signatures stay right; without bodies, for it is there to be read through.
Answers are held whole in memory.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable

from servers.answers import Answer, Request
from servers.hostile import Hostile

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})


class Relay(Hostile):
    """See the module. `is_data`: what `faults` and `always` are for; default: each GET."""

    def __init__(self, upstream_port: int, *, is_data: Callable[[Request], bool] = lambda request: True) -> None:
        self._upstream_port, self._is_data = upstream_port, is_data
        super().__init__()

    def is_data(self, request: Request) -> bool:
        return super().is_data(request) and self._is_data(request)

    def _proper(self, request: Request) -> Answer:
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders()
            said = upstream.getresponse()
            headers = [(name, value) for name, value in said.getheaders() if name.lower() not in _HOP_BY_HOP]
            body = said.read()
        finally:
            upstream.close()
        answer = Answer(said.status, tuple(headers), body, start=_start(said.getheader("Content-Range")))
        return answer if request.method == "HEAD" else answer.with_header("Content-Length", str(len(body)))


def _start(content_range: str | None) -> int:
    """Where in the file the body begins."""
    return int((content_range or "bytes 0-").removeprefix("bytes ").partition("-")[0])
