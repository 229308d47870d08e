"""What a test server was asked and what it is about to say. Pure: no sockets here.

A `Request` becomes the proper `Answer` by `answer_for`; a fault (servers.faults) turns that into a wrong one; only
servers.hostile writes it to a socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

REASONS = {
    200: "OK", 206: "Partial Content", 301: "Moved Permanently", 302: "Found", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 412: "Precondition Failed", 416: "Range Not Satisfiable",
    429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Served:
    """One file: its bytes (may be a map of a large file), validators and extra headers. `etag` None: none is sent."""

    data: bytes | memoryview
    etag: str | None
    last_modified: str | None = "Thu, 01 Jan 2026 00:00:00 GMT"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """As it came. Header names in lower case; `at_s` is monotonic; `connection` counts from 1 by order of accept."""

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int
    at_s: float

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def range(self) -> tuple[int, int] | None:
        """The asked half-open range; an open end is -1; None without a Range that has a start."""
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        if match is None or not match[1]:
            return None
        return int(match[1]), int(match[2]) + 1 if match[2] else -1


class Ending(Enum):
    """What becomes of the connection once the last byte that will be sent is sent."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Answer:
    """What will be written. `raw` replaces head and body; `start` is the body's offset in the file (for faults)."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | memoryview = b""
    start: int = 0
    version: str = "HTTP/1.1"
    raw: bytes | None = None
    preamble: bytes = b""
    wait_s: float = 0
    send_bytes: int | None = None
    """Body bytes to send before `ending`; None sends all; -1 does not even send the head."""
    rate_bytes_per_s: float | None = None
    chunked: bool = False
    babble: bytes = b""
    """Sent over and over after `raw`, until the client leaves."""
    ending: Ending = Ending.KEEP

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str | None) -> Answer:
        """`name` replaced, or removed if `value` is None."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))

    def head(self) -> bytes:
        lines = [f"{self.version} {self.status} {REASONS.get(self.status, 'Odd')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def plain(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, (("Content-Length", str(len(body))), *(headers or {}).items()), body)


def answer_for(request: Request, served: Served | None) -> Answer:
    """What a correct server says: ranges, If-Match, If-None-Match and HEAD heeded."""
    if served is None:
        return plain(404, b"no such file\n")
    if request.method not in ("GET", "HEAD"):
        return plain(405, b"", {"Allow": "GET, HEAD"})
    if "if-match" in request.headers and request.headers["if-match"] not in ("*", served.etag):
        return plain(412, b"changed\n", _validators(served))
    if served.etag and request.headers.get("if-none-match") == served.etag:
        return plain(304, b"", _validators(served))
    return _content(request, served)


def _content(request: Request, served: Served) -> Answer:
    total = len(served.data)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        **_validators(served),
        **served.headers,
    }
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    stale = request.headers.get("if-range", served.etag) != served.etag
    start, stop, status = 0, total, 200
    if match is not None and any(match.groups()) and not stale:
        start = int(match[1]) if match[1] else max(0, total - int(match[2]))
        stop = min(total, int(match[2]) + 1) if match[1] and match[2] else total
        status = 206
        if start >= stop:
            return plain(416, b"", {"Content-Range": f"bytes */{total}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
    body = memoryview(served.data)[start:stop] if request.method == "GET" else b""
    return Answer(status, (("Content-Length", str(stop - start)), *headers.items()), body, start=start)


def _validators(served: Served) -> dict[str, str]:
    pairs = {"ETag": served.etag, "Last-Modified": served.last_modified}
    return {name: value for name, value in pairs.items() if value is not None}
