"""What a peer asks: the head of a request, what it names, which part of it, under which conditions. Pure: bytes in, values out.

Nothing of a request ever becomes a path: what it names is a digest or an ingest's id, matched whole.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from prestage.cacher.digests import BlobId

MAX_HEAD_BYTES = 16 << 10
"""A request of ours has some 300 bytes; nginx's own bound is 8 KiB a line, 32 KiB in all."""
MAX_HEADERS = 64
_REQUEST = re.compile(rb"([A-Z]{1,20}) (/[!-~]{0,2000}) HTTP/1\.([01])")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLOB = re.compile(r"/v1/blobs/(blake3-tree:[0-9a-f]{64})(?:/(meta)|/pieces/([0-9]{1,9}))?")
_INGEST = re.compile(r"/v1/ingests/([0-9a-f]{64})(?:/pieces/([0-9]{1,9}))?")
_RANGE = re.compile(r"(?i:bytes)\s*=\s*(?:([0-9]{1,19})\s*-\s*([0-9]{0,19})|-\s*([0-9]{1,19}))\s*")
_TAG = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*')
_ONCE = ("content-length", "host", "range", "authorization", "if-range")


class Refused(Exception):
    """A request that is answered with an error. `headers` go with it; with `close` the connection ends after it."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None, *, close: bool = False) -> None:
        super().__init__(why)
        self.status, self.why, self.headers, self.close = status, why, dict(headers or {}), close


@dataclass(frozen=True, slots=True)
class Request:
    """A head that is HTTP/1.x; names of headers in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    keep_alive: bool


class What(Enum):
    """The resources."""

    BLOB = "blob"
    META = "meta"
    PIECE = "piece"
    PROGRESS = "progress"
    INGESTED_PIECE = "ingested-piece"


@dataclass(frozen=True, slots=True)
class Asked:
    """A resource by name. `name` is a blob or, for the last two, the id of an ingest."""

    what: What
    name: str
    piece: int = 0
    after: int | None = None
    """Of a progress: answer when more than so many pieces are journaled."""
    wait_s: float | None = None

    @property
    def blob(self) -> BlobId:
        """Where it is one."""
        return BlobId(self.name)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, stop) of `size_bytes`; `partial` is a 206."""

    start: int
    stop: int
    size_bytes: int
    partial: bool = False


def parse(raw: bytes) -> Request:
    """Read a head, up to but without the empty line that ends it.

    Raises:
        Refused: 400, 405, 413, 431 or 505; the connection ends, for what follows is not understood.
    """
    lines = raw.split(b"\r\n")
    first = _REQUEST.fullmatch(lines[0])
    if first is None:
        raise Refused(400, "not an HTTP/1.1 request", close=True)
    if len(lines) > MAX_HEADERS:
        raise Refused(431, f"more than {MAX_HEADERS} headers", close=True)
    headers = _headers(lines[1:])
    method, is_11 = first.group(1).decode("ascii"), first.group(3) == b"1"
    if method not in ("GET", "HEAD"):
        raise Refused(405, f"{method} is not served here", {"Allow": "GET, HEAD"}, close=True)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise Refused(413, "a request for bytes has none itself", close=True)
    if is_11 and "host" not in headers:
        raise Refused(400, "a request of HTTP/1.1 names its host", close=True)
    words = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    path, _, query = first.group(2).decode("ascii").partition("?")
    pairs = urllib.parse.parse_qsl(query, max_num_fields=None, keep_blank_values=True)
    return Request(method, path.replace("%3A", ":").replace("%3a", ":"), dict(pairs), headers, is_11 and "close" not in words)


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or any(byte < 32 and byte != 9 for byte in value):
            raise Refused(400, "a line that is not a header", close=True)
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        if key in headers and key in _ONCE:
            raise Refused(400, f"more than one {key}", close=True)
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def route(request: Request) -> Asked:
    """What the request names.

    Raises:
        Refused: 404, nothing has that name; 400, its `after` or `wait` is not a number.
    """
    if (found := _BLOB.fullmatch(request.path)) is not None:
        blob, meta, piece = found.groups()
        if meta:
            return Asked(What.META, blob)
        return Asked(What.PIECE, blob, int(piece)) if piece else Asked(What.BLOB, blob)
    if (found := _INGEST.fullmatch(request.path)) is not None:
        ingest, piece = found.groups()
        if piece:
            return Asked(What.INGESTED_PIECE, ingest, int(piece))
        after, wait = (_number(request.query.get(name), name) for name in ("after", "wait"))
        return Asked(What.PROGRESS, ingest, after=after, wait_s=wait)
    raise Refused(404, "there is nothing of that name: /v1/blobs/<blake3-tree:hex>, /v1/ingests/<id>")


def _number(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refused(400, f"{name} is not a number")
    return int(text)


def select(headers: Mapping[str, str], etag: str, size_bytes: int) -> Span:
    """Which bytes of something immutable of this ETag and size are wanted.

    One range of bytes; none, an unknown unit, or an If-Range of another ETag give all. What is not one range that the file
    has is refused and not answered whole: that may be 100 GB which nobody asked for.

    Raises:
        Refused: 412, 304, 416.
    """
    if (match := headers.get("if-match")) is not None and not _names(match, etag, weakly=False):
        raise Refused(412, "it has another digest", {"ETag": etag})
    if (unmatched := headers.get("if-none-match")) is not None and _names(unmatched, etag, weakly=True):
        raise Refused(304, "", {"ETag": etag})
    whole = Span(0, size_bytes, size_bytes)
    wanted = headers.get("range")
    if wanted is None or not wanted.lstrip().lower().startswith("bytes"):
        return whole
    if (only_if := headers.get("if-range")) is not None and only_if.strip() != etag:
        return whole
    found = _RANGE.fullmatch(wanted.strip())
    refusal = Refused(416, "not one range that it has", {"Content-Range": f"bytes */{size_bytes}", "ETag": etag})
    if found is None:
        raise refusal
    first, last, suffix = found.groups()
    start = int(first) if first else max(0, size_bytes - int(suffix))
    stop = min(int(last) + 1, size_bytes) if last else size_bytes
    if start >= stop or (last and int(last) < start):
        raise refusal
    return Span(start, stop, size_bytes, partial=True)


def _names(value: str, etag: str, *, weakly: bool) -> bool:
    """Is `etag` in the list of an If-Match or If-None-Match?"""
    if value.strip() == "*":
        return True
    for part in value.split(","):
        if _TAG.fullmatch(part) and (part.strip() == etag or (weakly and part.strip() == f"W/{etag}")):
            return True
    return False
