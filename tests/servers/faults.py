"""What can be wrong with an answer, one small value per fault; each turns the proper answer into the wrong one. Pure.

A fault is a callable `(request, answer) -> answer`, so a test may pass a function of its own. Faults say what the
server does, never what a client should make of it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace

from servers.answers import Answer, Ending, Request, plain

Fault = Callable[[Request, Answer], Answer]


def proper(request: Request, answer: Answer) -> Answer:
    """No fault: keeps a script's later faults for later requests."""
    return answer


def ignores_range(request: Request, answer: Answer) -> Answer:
    """Announces the range, then is told to forget it: servers.hostile serves the whole file with 200."""
    return replace(answer, status=200)


@dataclass(frozen=True, slots=True)
class WrongLength:
    """Content-Length is off by `by` bytes: > 0 promises more than comes (then closes), < 0 sends more than promised."""

    by: int

    def __call__(self, request: Request, answer: Answer) -> Answer:
        length = int(answer.header("Content-Length") or 0) + self.by
        return replace(answer.with_header("Content-Length", str(length)), ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Cut:
    """An orderly close after `after` body bytes; -1: before the head."""

    after: int = 0

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, send_bytes=self.after, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset after `after` body bytes; -1: before the head. Bytes in flight may be lost with it."""

    after: int = -1

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, send_bytes=self.after, ending=Ending.RESET)


@dataclass(frozen=True, slots=True)
class Stall:
    """Silence after `after` body bytes, the connection open until the client leaves; -1: not even a head."""

    after: int = 0

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, send_bytes=self.after, ending=Ending.HANG)


@dataclass(frozen=True, slots=True)
class Delay:
    """The head comes `wait_s` seconds late."""

    wait_s: float

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, wait_s=self.wait_s)


@dataclass(frozen=True, slots=True)
class Drip:
    """The body comes at this rate: a straggler."""

    rate_bytes_per_s: float

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, rate_bytes_per_s=self.rate_bytes_per_s)


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes that are no HTTP, then a close."""

    raw: bytes = b"\x16\x03\x01 this is not the protocol you are looking for\n\n"

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, raw=self.raw, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Status:
    """This status instead of the file, with Retry-After (seconds or an HTTP date) and other headers where given."""

    status: int
    retry_after: str | None = None
    body: bytes = b"no\n"
    headers: tuple[tuple[str, str], ...] = ()

    def __call__(self, request: Request, answer: Answer) -> Answer:
        said = plain(self.status, self.body, dict(self.headers))
        return said.with_header("Retry-After", self.retry_after)


def storm(status: int, count: int, *, retry_after: str | None = None) -> list[Fault]:
    """`count` refusals, one for each request that comes."""
    return [Status(status, retry_after)] * count


@dataclass(frozen=True, slots=True)
class Redirect:
    """To `location`; empty: to the very URL that was asked for, which is a loop."""

    location: str = ""
    status: int = 302

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return plain(self.status, b"", {"Location": self.location or request.target})


@dataclass(frozen=True, slots=True)
class WrongContentRange:
    """A 206 whose Content-Range claims another place or another total, or none at all; the bytes are right."""

    shift: int = 0
    total_shift: int = 0
    missing: bool = False

    def __call__(self, request: Request, answer: Answer) -> Answer:
        if answer.status != 206 or self.missing:
            return answer.with_header("Content-Range", None)
        span, _, total = (answer.header("Content-Range") or "").removeprefix("bytes ").partition("/")
        first, last = (int(edge) + self.shift for edge in span.split("-"))
        return answer.with_header("Content-Range", f"bytes {first}-{last}/{int(total) + self.total_shift}")


@dataclass(frozen=True, slots=True)
class OtherRange:
    """A consistent 206 for another range than was asked: `by` bytes shorter at the end, as the standard allows."""

    by: int

    def __call__(self, request: Request, answer: Answer) -> Answer:
        if answer.status != 206 or len(answer.body) <= self.by:
            return answer
        total = (answer.header("Content-Range") or "").partition("/")[2]
        body = memoryview(answer.body)[: len(answer.body) - self.by]
        last = answer.start + len(body) - 1
        shorter = answer.with_header("Content-Range", f"bytes {answer.start}-{last}/{total}")
        return replace(shorter.with_header("Content-Length", str(len(body))), body=body)


@dataclass(frozen=True, slots=True)
class ETag:
    """This ETag on an answer that is otherwise as before; None sends none. If-Match has been heeded already."""

    etag: str | None

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return answer.with_header("ETag", self.etag)


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit wrong at this offset of the file, wherever an answer covers it."""

    at: int = 0

    def __call__(self, request: Request, answer: Answer) -> Answer:
        index = self.at - answer.start
        if answer.status not in (200, 206) or not 0 <= index < len(answer.body):
            return answer
        wrong = bytearray(answer.body)
        wrong[index] ^= 1
        return replace(answer, body=bytes(wrong))


@dataclass(frozen=True, slots=True)
class Reworded:
    """`old` reads `new` in the body: a listing that lies."""

    old: bytes
    new: bytes

    def __call__(self, request: Request, answer: Answer) -> Answer:
        body = bytes(answer.body).replace(self.old, self.new)
        return replace(answer.with_header("Content-Length", str(len(body))), body=body) if body != answer.body else answer


def gzipped(request: Request, answer: Answer) -> Answer:
    """The body compressed although identity was asked for, and said so."""
    packed = gzip.compress(bytes(answer.body), compresslevel=1)
    coded = answer.with_header("Content-Encoding", "gzip").with_header("Content-Length", str(len(packed)))
    return replace(coded, body=packed)


@dataclass(frozen=True, slots=True)
class HugeHeader:
    """One header line of this size."""

    size_bytes: int = 1 << 20

    def __call__(self, request: Request, answer: Answer) -> Answer:
        return answer.with_header("X-Huge", "a" * self.size_bytes)


def endless_headers(request: Request, answer: Answer) -> Answer:
    """Header after header, never the empty line, until the client leaves."""
    more = b"X-More: %s\r\n" % (b"z" * 1000)
    return replace(answer, raw=answer.head()[:-2], babble=more, ending=Ending.CLOSE)


def endless_interim(request: Request, answer: Answer) -> Answer:
    """One 1xx answer after the other, never the real one, until the client leaves."""
    return replace(answer, raw=b"", babble=b"HTTP/1.1 103 Early Hints\r\n\r\n", ending=Ending.CLOSE)


def chunked(request: Request, answer: Answer) -> Answer:
    """Framed by Transfer-Encoding instead of Content-Length."""
    framed = answer.with_header("Content-Length", None).with_header("Transfer-Encoding", "chunked")
    return replace(framed, chunked=True)


def broken_chunks(request: Request, answer: Answer) -> Answer:
    """A chunk size that is no number, in the middle of the body."""
    framed = chunked(request, answer)
    half = bytes(answer.body[: max(1, len(answer.body) // 2)])
    raw = framed.head() + b"%x\r\n%s\r\nZZZ\r\n" % (len(half), half)
    return replace(framed, raw=raw, ending=Ending.CLOSE)


def http10(request: Request, answer: Answer) -> Answer:
    """HTTP/1.0 without a length: the close is the end."""
    bare = answer.with_header("Content-Length", None).with_header("Connection", "close")
    return replace(bare, version="HTTP/1.0", ending=Ending.CLOSE)


def closes(request: Request, answer: Answer) -> Answer:
    """A proper answer that announces the end of the connection, then ends it."""
    return replace(answer.with_header("Connection", "close"), ending=Ending.CLOSE)


def leaves_unsaid(request: Request, answer: Answer) -> Answer:
    """A proper answer on a connection that is then closed without a word: stale for the next request."""
    return replace(answer, ending=Ending.CLOSE)


def interim(request: Request, answer: Answer) -> Answer:
    """Two 1xx answers before the real one."""
    return replace(answer, preamble=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")


def two_lengths(request: Request, answer: Answer) -> Answer:
    """Two Content-Length headers that differ: how requests and answers are smuggled."""
    length = int(answer.header("Content-Length") or 0)
    return replace(answer, headers=(*answer.headers, ("Content-Length", str(length + 1))), ending=Ending.CLOSE)
