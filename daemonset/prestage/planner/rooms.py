"""Room over time: bytes that are promised from one moment to another, against a limit that no moment may exceed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From `starts` until just before `ends`; seconds since the epoch."""

    starts: float = -math.inf
    """-inf: now."""
    ends: float = math.inf
    """inf: nobody knows."""


OPEN: Final = Span()
"""From now on."""
NOW: Final = Span(-math.inf, -1e300)
"""This very moment, and no promise for the next."""


def uncovered(spans: Sequence[Span], wanted: Span) -> list[Span]:
    """What of `wanted` is in none of `spans`, in order."""
    if not spans:
        return [wanted]
    left, at = list[Span](), wanted.starts
    for span in sorted(spans):
        if span.ends <= at or span.starts >= wanted.ends:
            continue
        if span.starts > at:
            left.append(Span(at, span.starts))
        at = max(at, span.ends)
    if at < wanted.ends:
        left.append(Span(at, wanted.ends))
    return left


class Room:
    """Of one node, or of one namespace."""

    __slots__ = ("_passing", "always_bytes", "limit_bytes", "now_bytes")

    def __init__(self, limit_bytes: float = math.inf) -> None:
        self.limit_bytes = limit_bytes
        self.now_bytes = 0
        """Promised now."""
        self.always_bytes = 0
        """Promised from now on without an end."""
        self._passing = list[tuple[Span, int]]()

    def take(self, size_bytes: int, span: Span) -> None:
        """Promise it."""
        if span.starts == -math.inf:
            self.now_bytes += size_bytes
        if span == OPEN:
            self.always_bytes += size_bytes
        elif span is not NOW:  # nothing is asked for this moment again but `now_bytes`
            self._passing.append((span, size_bytes))

    def peak_bytes(self, span: Span) -> int:
        """The most that is promised at any moment of it."""
        if span is NOW:
            return self.now_bytes
        if not self._passing:
            return self.always_bytes
        changes = list[tuple[float, int]]()
        for other, size_bytes in self._passing:
            if other.starts < span.ends and other.ends > span.starts:
                changes.append((max(other.starts, span.starts), size_bytes))
                changes.append((other.ends, -size_bytes))
        changes.sort()
        most = level = 0
        for _, change in changes:
            level += change
            most = max(most, level)
        return self.always_bytes + most

    def lacks_bytes(self, size_bytes: int, spans: Iterable[Span], *, kept_bytes: int = 0) -> float:
        """How much more would have to be free for it, beside `kept_bytes`; 0 or less: it fits."""
        most = 0
        for span in spans:
            most = max(most, self.peak_bytes(span))
        return most + kept_bytes + size_bytes - self.limit_bytes
