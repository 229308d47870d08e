"""What became of each window: warm in time, late and by how much, or never. Pure; kept while we lead.

A window's models are warm together: it counts as warm since the last of them is. One that is edited away before it begins, or
was not seen before it began, has no outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prestage.control.demand.collecting import Collected
from prestage.planner.demands import ToldBy
from prestage.planner.plans import Plan, Reason


class Key(NamedTuple):
    """A window: UID of who said it, and when it begins."""

    uid: str
    begins: float


@dataclass(frozen=True, slots=True)
class Settled:
    """One outcome. `late_by_s` None: it was never warm."""

    key: Key
    source: ToldBy
    late_by_s: float | None


@dataclass(slots=True)
class _Watched:
    source: ToldBy
    seen_at: float
    ends: float
    warm_at: float | None = None
    is_settled: bool = False


@dataclass(slots=True)
class Outcomes:
    """Call `look` after each plan."""

    _watched: dict[Key, _Watched] = field(default_factory=dict)

    def warm_since(self, uid: str, begins: float) -> float | None:
        """Since when all its models are warm; None: they are not."""
        found = self._watched.get(Key(uid, begins))
        return found.warm_at if found is not None else None

    def saw_begin(self, uid: str, begins: float) -> bool:
        """Whether it was looked at before it began."""
        found = self._watched.get(Key(uid, begins))
        return found is not None and found.seen_at < begins

    def is_open(self, uid: str, begins: float) -> bool:
        """Whether its outcome is still to come: it was seen before it began, and was not warm since."""
        found = self._watched.get(Key(uid, begins))
        return found is not None and not found.is_settled and found.seen_at < begins

    def look(self, collected: Collected, plan: Plan, now: float) -> list[Settled]:
        """What is decided since the last time."""
        settled = list[Settled]()
        present = windows(collected, plan)
        for key, (source, ends, is_warm) in present.items():
            watched = self._watched.setdefault(key, _Watched(source, now, ends))
            watched.ends = ends
            if watched.is_settled:
                continue
            if not is_warm:
                watched.warm_at = None
                continue
            watched.warm_at = now if watched.warm_at is None else watched.warm_at
            if now >= key.begins:
                watched.is_settled = True
                settled += _outcome(key, watched, max(0.0, watched.warm_at - key.begins))
        for key in self._watched.keys() - present.keys():
            watched = self._watched.pop(key)
            if watched.is_settled or now < key.begins:
                continue
            late = None if watched.warm_at is None else max(0.0, watched.warm_at - key.begins)
            settled += _outcome(key, watched, late)
        return settled


def windows(collected: Collected, plan: Plan) -> Mapping[Key, tuple[ToldBy, float, bool]]:
    """Those that have a beginning: who said it, its end, and whether all its models are warm where they should be."""
    found: dict[Key, tuple[ToldBy, float, bool]] = {}
    for name, due in collected.dues.items():
        if due.opening.ends == math.inf:
            continue
        verdict = plan.verdicts.get(name)
        if verdict is None and due.asked.architecture and due.declaration.source is not ToldBy.STAGING_SCHEDULE:
            continue  # an image that only comes along: where it is not staged the kubelet pulls it
        is_warm = verdict is not None and verdict.reason is Reason.WARM
        key = Key(due.declaration.subject.uid, due.opening.begins)
        _, _, others = found.get(key, (None, 0.0, True))
        found[key] = due.declaration.source, due.opening.ends, is_warm and others
    return found


def _outcome(key: Key, watched: _Watched, late_by_s: float | None) -> list[Settled]:
    return [Settled(key, watched.source, late_by_s)] if watched.seen_at < key.begins else []
