"""What was decided, when and why, and the last of it, bounded: what `why` answers from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

DECISIONS_MAX: Final = 2000
NODES_MAX: Final = 32
"""Named in one decision; of more it is said how many."""


class Decided(StrEnum):
    """What became of an artifact on nodes."""

    PLANNED = "Planned"
    """They will be told to stage it, at `begins`."""
    STAGE = "Stage"
    """They were told to stage it."""
    KEEP = "Keep"
    """They were told to keep it."""
    RELEASE = "Release"
    """Nothing is said of it any more: it goes when room is needed."""
    WARM = "Warm"
    """They reported it whole."""
    FAILED = "Failed"
    """They reported that staging it failed."""
    GONE = "Gone"
    """They had it, and report it no more."""
    LATE = "Late"
    """Somebody will have it late, or not at all."""


class Because(StrEnum):
    """Of RELEASE and GONE. Of others: who said that it is wanted (`ToldBy`), or a `Reason`, or class and code of a failure."""

    NOT_WANTED = "NotWanted"
    """Nobody asks for it."""
    NO_ROOM = "NoRoom"
    """It is wanted, and what comes before it takes the room."""
    USED = "Used"
    """Of KEEP: nobody asks for it now, and it was started often for its size."""
    ROOM = "Room"
    """It was not in the plan, and something was to be staged there."""
    UNPLANNED = "Unplanned"
    """It was not in the plan: let go of by hand, or the disk was filled by others."""
    LOST = "Lost"
    """It was in the plan: the store was lost, it was damaged, or let go of by hand."""
    NODE_GONE = "NodeGone"
    """The node is no more."""
    UNSEEN = "Unseen"
    """While no planner looked."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`namespace`: whose demand it was; empty: nobody's. `by`: its object there, as "Deployment/chat"."""

    at: float
    what: Decided
    artifact: str
    nodes: tuple[str, ...] = ()
    more: int = 0
    """Nodes that are not named."""
    because: str = ""
    namespace: str = ""
    by: str = ""
    begins: float | None = None
    ready_by: float | None = None
    late_s: float | None = None


class Decisions:
    """The last ones. Of too many the oldest goes of whoever has most: no namespace pushes out what another wants to know."""

    def __init__(self, past: Iterable[Decision] = (), most: int = DECISIONS_MAX) -> None:
        self._most = most
        self._kept: dict[str, deque[tuple[int, Decision]]] = {}
        self._count = self._added = 0
        for one in past:
            self.add(one)

    @property
    def added(self) -> int:
        """How many ever: another number, another log."""
        return self._added

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Decision]:
        """As they were added: a clock that was set back does not change what came last."""
        return (one for _, one in sorted((entry for kept in self._kept.values() for entry in kept), key=lambda entry: entry[0]))

    def add(self, decision: Decision) -> None:
        """One more."""
        self._added += 1
        self._kept.setdefault(decision.namespace, deque()).append((self._added, decision))
        self._count += 1
        while self._count > self._most:
            most = max(self._kept, key=lambda name: (len(self._kept[name]), name))
            self._kept[most].popleft()
            self._count -= 1
            if not self._kept[most]:
                del self._kept[most]

    def halve(self) -> None:
        """Forget the older half of each."""
        for name in list(self._kept):
            for _ in range((len(self._kept[name]) + 1) // 2):
                self._kept[name].popleft()
                self._count -= 1
            if not self._kept[name]:
                del self._kept[name]


def grouped(decisions: Iterable[Decision]) -> list[Decision]:
    """Those that say the same of several nodes become one, in the order of the first."""
    found: dict[tuple[object, ...], list[str]] = {}
    first: dict[tuple[object, ...], Decision] = {}
    for one in decisions:
        key = (one.at, one.what, one.artifact, one.because, one.namespace, one.by, one.begins, one.ready_by, one.late_s)
        first.setdefault(key, one)
        found.setdefault(key, []).extend(one.nodes)
    return [_of(first[key], sorted(set(nodes))) for key, nodes in found.items()]


def _of(one: Decision, nodes: list[str]) -> Decision:
    return replace(one, nodes=tuple(nodes[:NODES_MAX]), more=max(0, len(nodes) - NODES_MAX))
