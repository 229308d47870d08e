"""From what the API server answers to what errors.py lists, and when to ask again. Pure: no clock, no randomness of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from prestage.cacher.errors import PrestageError
from prestage.kube.errors import Conflict, Forbidden, Gone, Invalid, Missing, TooMany, Unreachable
from prestage.kube.ports import Happening, Object, WatchEvent

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
UNTOUCHED = frozenset({429})
"""Those with which the API server says that it did nothing: fairness refused the request before it was looked at."""
_SECONDS = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a response."""

    status: int
    body: bytes
    retry_after: str = ""

    @property
    def passing(self) -> bool:
        """True where the same request may succeed later."""
        return self.status in PASSING


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: uniform(0, min(cap, base * 2^n)), never less than what the server asked for."""

    base_s: float = 0.25
    cap_s: float = 30.0

    def delay_s(self, failures: int, draw: float, asked_s: float | None = None) -> float:
        """After the `failures`-th failure in a row (from 1). `draw`: uniform in [0, 1)."""
        jitter_s = draw * min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 20))
        return jitter_s if asked_s is None else asked_s + draw * self.base_s


def asked_s(answer: Answer) -> float | None:
    """Retry-After in seconds, which is all that the API server writes there; None where it does not say."""
    return float(answer.retry_after) if _SECONDS.fullmatch(answer.retry_after) else None


def error_of(answer: Answer, doing: str) -> PrestageError:
    """`doing`: what was asked, for the message ("apply nodecaches/n1")."""
    said = message_of(answer.body) or f"HTTP {answer.status}"
    text = f"{doing}: {said}"
    match answer.status:
        case 400 | 405 | 406 | 413 | 415 | 422:
            return Invalid(text)
        case 401 | 403:
            return Forbidden(text, hint="see the RBAC rules of the chart")
        case 404:
            return Missing(text)
        case 409:
            return Conflict(text, hint="read it again")
        case 410:
            return Gone(text)
        case 429:
            return TooMany(text, hint="the API server is overloaded")
    return Unreachable(text)


def message_of(body: bytes) -> str:
    """Of a Status object on one line; other text shortened; empty where there is none."""
    try:
        read = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return " ".join(body[:300].decode(errors="replace").split())
    said = read.get("message") if isinstance(read, dict) else None
    return " ".join(said.split()) if isinstance(said, str) else ""


class Lines:
    """Lines out of chunks: a watch is one JSON object a line. A line longer than `most_bytes` is refused."""

    def __init__(self, most_bytes: int = 16 * 2**20) -> None:
        self._kept = bytearray()
        self._most_bytes = most_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes. Raises Unreachable where one grows too long."""
        self._kept += chunk
        *lines, rest = self._kept.split(b"\n")
        if len(rest) > self._most_bytes:
            raise Unreachable(f"a watch sent a line of more than {self._most_bytes} bytes")
        self._kept = rest
        return [bytes(line) for line in lines if line.strip()]


def watch_event(line: bytes, doing: str) -> WatchEvent:
    """One line.

    Raises:
        Gone, Unreachable and the rest: what an ERROR line says. Unreachable too where the line is none of the protocol.
    """
    try:
        read = msgspec.json.decode(line)
        seen, kind = read["object"], read["type"]
        if kind == "ERROR":
            code = seen.get("code") if isinstance(seen, Mapping) else None
            raise error_of(Answer(code if isinstance(code, int) else 500, msgspec.json.encode(seen)), doing)
        if not isinstance(seen, dict):
            raise TypeError(type(seen))
        return WatchEvent(Happening(kind), seen)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as exc:
        raise Unreachable(f"{doing}: {line[:80]!r} is no line of a watch") from exc


def object_of(answer: Answer, doing: str) -> Object:
    """The object in a good answer. Raises Unreachable where it is none: a proxy's page, half a body."""
    try:
        read = msgspec.json.decode(answer.body)
    except msgspec.DecodeError as exc:
        raise Unreachable(f"{doing}: the answer is not JSON") from exc
    if not isinstance(read, dict):
        raise Unreachable(f"{doing}: the answer is no object")
    return read
