"""How often each artifact is started, counted as pods come to nodes: what is kept when not all can stay. Pure.

Counted since this planner leads: one that begins anew counts from nothing, and keeps what is wanted now until it knows more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prestage.planner.demands import Demand, Trust
from prestage.planner.rules import Worth
from prestage.planner.values import Use, bounded, used


@dataclass(slots=True)
class Uses:
    """Call `look` once for each plan."""

    worth: Worth = field(default_factory=Worth)
    _pods: Counter[str] | None = None
    _uses: dict[str, Use] = field(default_factory=dict)

    def look(self, demands: Iterable[Demand], now: float) -> Mapping[str, Use]:
        """`demands`: all of now. A pod that came to a node since the last look is one start."""
        bound = [one for one in demands if one.trust is Trust.BOUND]
        pods = Counter({one.id: sum(one.at.values()) for one in bound})
        before, self._pods = self._pods, pods
        if before is None:
            return self._uses
        for one in bound:
            for _ in range(min(pods[one.id] - before[one.id], _STARTS_MAX)):
                known = self._uses.get(one.artifact)
                gpus = max(1, one.gpus // pods[one.id], known.gpus if known is not None else 0)
                self._uses[one.artifact] = used(
                    known, at=now, size_bytes=one.size_bytes, gpus=gpus, half_life_s=self.worth.half_life_s
                )
        self._uses = bounded(self._uses, now, self.worth.half_life_s)
        return self._uses


_STARTS_MAX = 1000
"""Of one template between two plans."""
