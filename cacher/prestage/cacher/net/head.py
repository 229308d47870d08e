"""Response heads and the framing of the body that follows. Pure: bytes in, values out; refuses what is not HTTP/1.x."""

from __future__ import annotations

import re
from dataclasses import dataclass

from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import ResponseHead

MAX_HEAD_BYTES = 64 << 10
"""Room for signed redirects and cookies; nginx and S3 stay under 16 KiB."""
MAX_HEADERS = 256
END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_JOINED_ONCE = ("content-length", "content-range", "location", "etag", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Framing:
    """How the body ends: after `length` bytes, by chunks, or (neither) when the connection closes."""

    length: int | None
    chunked: bool
    keep_alive: bool


def parse_head(raw: bytes) -> tuple[ResponseHead, Framing]:
    """Read a head, up to but without the empty line that ends it.

    Raises:
        NetError: `garbage`.
    """
    lines = raw.split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise NetError("garbage", f"not an HTTP/1.x answer: {lines[0][:60]!r}")
    if len(lines) > MAX_HEADERS:
        raise NetError("garbage", f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or b"\0" in value or b"\n" in value or b"\r" in value:
            raise NetError("garbage", f"not a header: {line[:60]!r}")
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        if key in headers and key in _JOINED_ONCE:
            if headers[key] != text:
                raise NetError("garbage", f"two different {key} headers")
            continue
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    head = ResponseHead(int(status.group(2)), headers)
    return head, _framing(head, is_http10=status.group(1) == b"0")


def _framing(head: ResponseHead, *, is_http10: bool) -> Framing:
    connection = head.headers.get("connection", "").lower()
    keep_alive = "keep-alive" in connection if is_http10 else "close" not in connection
    if head.status in (204, 304) or 100 <= head.status < 200:
        return Framing(0, chunked=False, keep_alive=keep_alive)
    coding = head.headers.get("transfer-encoding", "").lower()
    if coding:
        if coding != "chunked":
            raise NetError("garbage", f"unknown transfer coding {coding[:40]!r}")
        return Framing(None, chunked=True, keep_alive=keep_alive)
    stated = head.headers.get("content-length")
    if stated is None:
        return Framing(None, chunked=False, keep_alive=False)
    if not stated.isascii() or not stated.isdigit() or len(stated) > 19:
        raise NetError("garbage", f"Content-Length is {stated[:40]!r}")
    return Framing(int(stated), chunked=False, keep_alive=keep_alive)


def content_range(value: str) -> tuple[int, int, int | None] | None:
    """`bytes 0-9/20` -> (0, 10, 20): first byte, first byte after, total (None for `*`). None: not such a header."""
    found = _RANGE.fullmatch(value.strip())
    if found is None:
        return None
    first, last = int(found.group(1)), int(found.group(2))
    total = None if found.group(3) == "*" else int(found.group(3))
    if last < first or (total is not None and last >= total):
        return None
    return first, last + 1, total


def chunk_size(line: bytes) -> int:
    """The size line of a chunk, without its line end.

    Raises:
        NetError: `garbage`.
    """
    text = line.partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", text):
        raise NetError("garbage", f"chunk size is {line[:40]!r}")
    return int(text, 16)
