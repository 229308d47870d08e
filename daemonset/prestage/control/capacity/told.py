"""What a schedule says of the nodes that are asked for, and when its windows would be warm on them. Pure."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from prestage.api.schedules import CapacityState
from prestage.api.values import ConditionStatus
from prestage.cacher.quantities import human_seconds
from prestage.control.capacity.boots import Boots
from prestage.control.capacity.buffers import Standing
from prestage.control.capacity.wishes import Wish, wanted, wishes
from prestage.control.demand.collecting import Collected
from prestage.control.demand.declared import Declaration
from prestage.control.demand.schedules import NO_SHAPE
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Plan, Reason
from prestage.planner.rules import Rules

LACKING: Final = frozenset({Reason.NO_NODE, Reason.TOO_FEW_NODES})
"""Verdicts that nodes would cure."""


class Served(StrEnum):
    """Whether the autoscaler can be asked."""

    OFF = "SwitchedOff"
    LOOKING = "Looking"
    ABSENT = "NotServed"
    FORBIDDEN = "NotAllowed"
    YES = "Served"


_WHY_NOT: Final[Mapping[Served, str]] = {
    Served.OFF: "capacity.enabled is not set where prestage is installed: ask an operator, or have the nodes there in time",
    Served.LOOKING: "whether this cluster serves CapacityBuffers is being looked up",
    Served.ABSENT: "this cluster serves no CapacityBuffer (autoscaling.x-k8s.io): have the nodes there in time",
    Served.FORBIDDEN: "the planner may not see CapacityBuffers: ask an operator for the rights that the chart states",
}


Said = tuple[tuple[ConditionStatus, str, str], CapacityState | None]
"""Status, reason and message of a condition; and the state."""


@dataclass(slots=True)
class Capacity:
    """What is known of nodes that are asked for. Written by the service, read by statuses."""

    served: Served = Served.OFF
    boots: Boots = field(default_factory=Boots)
    standing: dict[str, Standing] = field(default_factory=dict)
    """Buffers of ours, by the UID of their schedule."""
    refused: dict[str, str] = field(default_factory=dict)
    """By the UID of a schedule: why its buffer could not be made."""

    def wishes(self, collected: Collected, nodes: Sequence[NodeState], rules: Rules) -> list[Wish]:
        """Of all schedules that ask."""
        asking = {one.subject.uid for one in collected.declarations if one.capacity is not None}
        return wishes(collected, nodes, {uid: self.boots.of(uid) for uid in asking}, rules)

    def awaited(self, collected: Collected, plan: Plan, found: Iterable[Wish], now: float) -> dict[str, float]:
        """When each demand that lacks nodes would be warm on those that are asked for: by its id."""
        if self.served is not Served.YES:
            return {}
        by_window = {(wish.subject.uid, wish.begins): wish for wish in found}
        made: dict[str, float] = {}
        for name, due in collected.dues.items():
            verdict = plan.verdicts.get(name)
            uid = due.declaration.subject.uid
            wish = by_window.get((uid, -math.inf if due.ready_by is None else due.ready_by))
            if verdict is None or verdict.reason not in LACKING or wish is None or uid in self.refused:
                continue
            buffer = self.standing.get(uid)
            made[name] = wish.ready_at(now, None if buffer is None else buffer.since)
        return made

    def said(self, declaration: Declaration, found: Sequence[Wish], now: float) -> Said | None:
        """Condition and state of one schedule; None: it asks for no nodes. `found`: its own wishes."""
        problem = next((one for one in declaration.problems if one.reason == NO_SHAPE), None)
        if problem is not None:
            return (ConditionStatus.FALSE, problem.reason, problem.message), None
        if declaration.capacity is None:
            return None
        uid = declaration.subject.uid
        state = self._state(uid, found, now)
        if (why := _WHY_NOT.get(self.served)) is not None:
            status = ConditionStatus.UNKNOWN if self.served is Served.LOOKING else ConditionStatus.FALSE
            return (status, str(self.served), why), state
        if uid in self.refused:
            return (ConditionStatus.FALSE, "NotAsked", self.refused[uid]), state
        return self._standing(uid, found, state, now), state

    def _standing(
        self, uid: str, found: Sequence[Wish], state: CapacityState | None, now: float
    ) -> tuple[ConditionStatus, str, str]:
        buffer = self.standing.get(uid)
        if buffer is not None:
            return ConditionStatus.TRUE, "Asked", f"for {buffer.spec.get('replicas')} since {_text(buffer.since)}"
        if state is not None and state.request_at is not None:
            wish = min((one for one in found if one.at > now), key=lambda one: one.at)
            how = f"a node takes {human_seconds(wish.boot_s)} to boot, its bytes {human_seconds(wish.stage_s)}"
            return ConditionStatus.TRUE, "Waiting", f"nodes are asked for at {_text(wish.at)}: {how}"
        if wanted(found, now):
            return ConditionStatus.UNKNOWN, "Asking", "another schedule may ask for the same pods, or it is being written"
        return ConditionStatus.TRUE, "Enough", "what is wanted now is there"

    def _state(self, uid: str, found: Sequence[Wish], now: float) -> CapacityState | None:
        buffer, boots = self.standing.get(uid), self.boots.of(uid)
        ahead = [wish.at for wish in found if wish.at > now and wish.count > 0 and self.served is Served.YES]
        if buffer is None and not ahead and not boots:
            return None
        replicas = buffer.spec.get("replicas") if buffer is not None else None
        return CapacityState(
            buffer=None if buffer is None else buffer.name,
            replicas=replicas if isinstance(replicas, int) else None,
            request_at=_moment(min(ahead)) if ahead else None,
            boots=[f"{math.ceil(one)}s" for one in boots] or None,
        )


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(round(min(max(seconds, 0.0), 2.5e11)), datetime.UTC)


def _text(seconds: float) -> str:
    return _moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
