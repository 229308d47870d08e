"""What fits, and what has to go for it. Pure.

    room = min(budget, used + free - margin) - used - reserved

`used` counts what blobs, ingests and quarantine take on disk, `reserved` what was promised to fetches and is not allocated yet,
`free` what is really free: another writer's gigabytes make the room smaller at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Full


@dataclass(frozen=True, slots=True)
class Usage:
    """One look at the disk, in bytes."""

    used: int
    reserved: int
    free: int
    margin: int
    budget: int | None

    @property
    def limit(self) -> int:
        """The effective budget."""
        by_disk = self.used + self.free - self.margin
        return by_disk if self.budget is None else min(self.budget, by_disk)

    @property
    def room(self) -> int:
        """What may be promised now; below zero when the disk is fuller than it should be."""
        return self.limit - self.used - self.reserved


@dataclass(frozen=True, slots=True)
class Candidate:
    """An artifact that could go."""

    artifact: ArtifactId
    name: str
    freed_bytes: int
    """By letting go of it alone: blobs that others share do not count."""
    last_used: float
    holds: str = ""
    """Who keeps it; empty: nobody."""


def to_evict(needed_bytes: int, usage: Usage, candidates: Sequence[Candidate]) -> list[Candidate]:
    """What to let go of, longest unused first, so that `needed_bytes` fit; empty if they do already.

    Raises:
        Full: they would not fit if all went that nobody holds; says what holds the room. Nothing should be evicted then.
    """
    missing = needed_bytes - usage.room
    chosen: list[Candidate] = []
    for candidate in sorted((c for c in candidates if not c.holds), key=lambda c: c.last_used):
        if missing <= 0:
            break
        chosen.append(candidate)
        missing -= candidate.freed_bytes
    if missing > 0:
        raise Full(_why(needed_bytes, missing, usage, candidates), hint=_what_to_do(candidates))
    return chosen


def _why(needed: int, missing: int, usage: Usage, candidates: Sequence[Candidate]) -> str:
    cap = "the budget" if usage.budget is not None and usage.limit == usage.budget else "the disk (less its margin)"
    held = [c for c in candidates if c.holds]
    words = f"{_gb(needed)} are needed, {_gb(missing)} too many for {cap} of {_gb(usage.limit)}"
    if held:
        largest = sorted(held, key=lambda c: -c.freed_bytes)[:5]
        words += "; held: " + ", ".join(f"{c.name} {_gb(c.freed_bytes)} by {c.holds}" for c in largest)
    if usage.reserved:
        words += f"; {_gb(usage.reserved)} are promised to other fetches"
    return words


def _what_to_do(candidates: Sequence[Candidate]) -> str:
    if any(c.holds for c in candidates):
        return "unpin or end what holds the room, raise --budget, or use a larger disk"
    return "raise --budget or use a larger disk"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if abs(size_bytes) >= 1e7 else f"{size_bytes / 1e6:.2f} MB"
