"""What fits, and what has to go for it. Pure.

    room = min(budget, used + free - margin) - used - reserved

`used` counts what blobs, ingests and quarantine take on disk, `reserved` what was promised to fetches and is not allocated yet,
`free` what is really free: another writer's gigabytes make the room smaller at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from prestage.cacher.errors import Full


class Kind(Enum):
    """What a candidate is, in the order in which they go."""

    QUARANTINE = 0
    LEFTOVER = 1
    """A blob or an ingest that no artifact asks for."""
    ARTIFACT = 2


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
    """Something that could go."""

    kind: Kind
    key: str
    """An artifact, or the name of what is left over."""
    name: str
    last_used: float
    blobs: Mapping[str, int] = field(default_factory=dict)
    """Sizes of its blobs: freed once nothing else that stays names them."""
    other_bytes: int = 0
    """Freed with it in any case."""
    holds: str = ""
    """Who keeps it; empty: nobody."""

    @property
    def size_bytes(self) -> int:
        """With what it shares."""
        return self.other_bytes + sum(self.blobs.values())


class Policy(Protocol):
    """In which order things are let go of."""

    def order(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """`candidates`, the first to go first; those that are not to go left out."""
        ...


class LeastRecentlyUsed:
    """Quarantine, then leftovers, then artifacts by their last use."""

    def order(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `Policy.order`; ties by key, so that the order is always the same."""
        return sorted(candidates, key=lambda candidate: (candidate.kind.value, candidate.last_used, candidate.key))


def to_evict(needed_bytes: int, usage: Usage, candidates: Sequence[Candidate], policy: Policy) -> list[Candidate]:
    """What to let go of so that `needed_bytes` fit; empty if they do already. Nothing goes that would not help.

    Raises:
        Full: they would not fit if all went that nobody holds; says what holds the room. Nothing should be evicted then.
    """
    missing = needed_bytes - usage.room
    if missing <= 0:
        return []
    chosen, tally = _enough(missing, candidates, policy)
    if tally.freed_bytes < missing:
        may_go = policy.order([c for c in candidates if not c.holds])
        raise Full(_why(needed_bytes, missing - tally.freed_bytes, usage, candidates, may_go), hint=_what_to_do(candidates))
    for candidate in tuple(reversed(chosen[:-1])):
        tally.leave(candidate)
        if tally.freed_bytes >= missing:
            chosen.remove(candidate)
        else:
            tally.take(candidate)
    return chosen


def to_give_back(usage: Usage, candidates: Sequence[Candidate], policy: Policy) -> list[Candidate]:
    """What to let go of when somebody else has filled the disk: as much as it takes, or all that nobody holds."""
    return _enough(-usage.room, candidates, policy)[0]


def _enough(missing: int, candidates: Sequence[Candidate], policy: Policy) -> tuple[list[Candidate], _Tally]:
    """The first ones to go until `missing` bytes are freed, or all that nobody holds."""
    tally = _Tally(candidates)
    chosen: list[Candidate] = []
    for candidate in policy.order([c for c in candidates if not c.holds]):
        if tally.freed_bytes >= missing:
            break
        chosen.append(candidate)
        tally.take(candidate)
    return chosen, tally


class _Tally:
    """Bytes freed by what was taken: a blob is freed once nothing that stays names it."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._names = Counter(blob for candidate in candidates for blob in candidate.blobs)
        self.freed_bytes = 0

    def take(self, candidate: Candidate) -> None:
        self.freed_bytes += candidate.other_bytes
        for blob, size in candidate.blobs.items():
            self._names[blob] -= 1
            self.freed_bytes += 0 if self._names[blob] else size

    def leave(self, candidate: Candidate) -> None:
        self.freed_bytes -= candidate.other_bytes
        for blob, size in candidate.blobs.items():
            self.freed_bytes -= 0 if self._names[blob] else size
            self._names[blob] += 1


def _why(needed: int, missing: int, usage: Usage, candidates: Sequence[Candidate], may_go: Sequence[Candidate]) -> str:
    by_budget = usage.budget is not None and usage.limit == usage.budget
    cap = (
        f"the budget of {shown(usage.limit)}"
        if by_budget
        else f"the disk ({shown(usage.free)} free, {shown(usage.margin)} margin)"
    )
    words = f"{shown(needed)} do not fit: {shown(missing)} too many for {cap}, {shown(usage.used)} used"
    if usage.reserved:
        words += f", {shown(usage.reserved)} promised to other fetches"
    if held := sorted((c for c in candidates if c.holds and c.size_bytes), key=lambda c: -c.size_bytes):
        words += "; held: " + ", ".join(f"{c.name} {shown(c.size_bytes)} by {c.holds}" for c in held[:5])
        words += f" and {len(held) - 5} more" if len(held) > 5 else ""
    kept = sum(1 for c in candidates if not c.holds and c.kind is Kind.ARTIFACT and c not in may_go)
    words += f"; the plan keeps {kept} more" if kept else ""
    if free := sum(1 for c in may_go if c.kind is Kind.ARTIFACT):
        words += f"; letting go of the {free} that nobody holds would not be enough"
    return words


def _what_to_do(candidates: Sequence[Candidate]) -> str:
    if any(c.holds and c.size_bytes for c in candidates):
        return "unpin or end what holds the room, raise --budget, or use a larger disk"
    return "raise --budget or use a larger disk"


def shown(size_bytes: int) -> str:
    """For a message: GB, or MB and bytes where that would be 0.00."""
    if abs(size_bytes) >= 10**7:
        return f"{size_bytes / 1e9:.2f} GB"
    return f"{size_bytes / 1e6:.2f} MB" if abs(size_bytes) >= 10**4 else f"{size_bytes} bytes"
