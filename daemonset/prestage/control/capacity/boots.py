"""How long a node takes from being asked for to taking bytes: the last boots, and what nine of ten beat. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

UNKNOWN_BOOT_S: Final = 300.0
"""Of a schedule that has seen none and says none: a cloud's GPU node is up in three to six minutes."""
KEPT: Final = 10
_LONGEST_S: Final = 7200.0
"""What came later than that came for another reason."""


def p90(boots: Sequence[float]) -> float | None:
    """What nine of ten beat; of fewer than ten the longest. None: there is none."""
    return sorted(boots)[math.ceil(0.9 * len(boots)) - 1] if boots else None


@dataclass(frozen=True, slots=True)
class Watch:
    """One buffer while it stands. `seen`: UIDs of nodes that were up when they were looked at first, or that were counted."""

    uid: str
    since: float
    seen: frozenset[str]
    counted: int = 0


@dataclass(slots=True)
class Boots:
    """By the UID of a schedule. `look` after each plan; what was seen before this process began is handed in by `recall`."""

    _taken: dict[str, tuple[float, ...]] = field(default_factory=dict)
    _watched: dict[str, Watch] = field(default_factory=dict)

    def recall(self, schedule: str, taken: Sequence[float]) -> None:
        """What its status says, newest first; what was measured since wins."""
        if taken and schedule not in self._taken:
            self._taken[schedule] = tuple(taken[:KEPT])

    def of(self, schedule: str) -> tuple[float, ...]:
        """Seconds, newest first."""
        return self._taken.get(schedule, ())

    def look(self, schedule: str, buffer: tuple[str, float, int], up: Mapping[str, float], now: float) -> None:
        """`buffer`: its UID, since when it stands, for how many nodes. `up`: UID to when it was made, of each node that it could
        be for and that takes bytes now."""
        uid, since, count = buffer
        watch = self._watched.get(schedule)
        if watch is None or watch.uid != uid:
            self._watched[schedule] = Watch(uid, since, frozenset(up))
            return
        fresh = sorted(name for name, made in up.items() if name not in watch.seen and made >= math.floor(since))
        fresh = fresh[: max(0, count - watch.counted)] if now - since <= _LONGEST_S else []
        if fresh:
            self._taken[schedule] = (*((now - since,) * len(fresh)), *self.of(schedule))[:KEPT]
        self._watched[schedule] = Watch(uid, since, watch.seen | up.keys(), watch.counted + len(fresh))

    def forget(self, schedules: set[str]) -> None:
        """All but those: the rest is gone."""
        for name in self._taken.keys() - schedules:
            del self._taken[name]
        for name in self._watched.keys() - schedules:
            del self._watched[name]
