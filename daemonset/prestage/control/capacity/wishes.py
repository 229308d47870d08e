"""Which nodes are to be asked for, from when until when, and when what is staged on them would be warm. Pure.

asked for at    readyBy - (boot + stage)      boot: what nine of ten boots beat; stage: the window's bytes on one node
warm at         asked for + boot + stage
until           the window ends, or its pods are there: for those that wait for a node the autoscaler sees to it anyway
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prestage.control.capacity.boots import UNKNOWN_BOOT_S, p90
from prestage.control.demand.collecting import Collected
from prestage.control.demand.declared import Declaration, Due, Shape
from prestage.kube.events import Subject
from prestage.planner.demands import Demand, Trust
from prestage.planner.nodes import NodeState
from prestage.planner.rules import Rules


@dataclass(frozen=True, slots=True)
class Wish:
    """Of one window. `begins` -inf: at once, and always."""

    subject: Subject
    shape: Shape
    begins: float
    until: float
    count: int
    """Pods that are not there yet; of a selector: nodes in all."""
    boot_s: float
    stage_s: float
    feasible: frozenset[str] = frozenset()
    """Nodes that would do and are there already, up or not."""

    @property
    def at(self) -> float:
        """When it is asked for."""
        return self.begins - self.boot_s - self.stage_s

    def is_open(self, now: float) -> bool:
        """Whether it is to be asked for."""
        return self.at <= now < self.until and self.count > 0

    def ready_at(self, now: float, asked_since: float | None) -> float:
        """When what is staged on nodes that are not there yet is warm. `asked_since`: None where it is not asked for yet."""
        asked = max(now, self.at) if asked_since is None else asked_since
        return max(now, asked + self.boot_s) + self.stage_s


def wishes(collected: Collected, nodes: Sequence[NodeState], boots: Mapping[str, Sequence[float]], rules: Rules) -> list[Wish]:
    """Of every window that is open, or next within the horizon, of a schedule that asks for nodes. `boots`: by its UID."""
    windows = defaultdict[tuple[str, str, float], list[Due]](list)
    for due in collected.dues.values():
        if due.declaration.capacity is not None:
            windows[due.declaration.subject.uid, due.want.window, due.opening.begins].append(due)
    present = _present(collected) if windows else {}
    demands = {one.id: one for one in collected.demands} if windows else {}
    made = list[Wish]()
    for (uid, _, _), dues in windows.items():
        due = dues[0]
        shape = due.declaration.capacity
        assert shape is not None
        known = [demand for one in dues if (demand := demands.get(one.id)) is not None]
        feasible = frozenset[str]().union(*(one.feasible for one in known))
        taken = present.get(due.want.place.uid, 0) if shape.target is not None else 0
        made.append(
            Wish(
                due.declaration.subject,
                shape,
                -math.inf if due.ready_by is None else due.ready_by,
                due.opening.ends,
                max(0, due.want.count - taken),
                boot_s(due.declaration, boots.get(uid, ())),
                stage_s(known, nodes, feasible, rules),
                feasible,
            )
        )
    return made


def boot_s(declaration: Declaration, boots: Sequence[float]) -> float:
    """As measured, else as said, else a careful guess."""
    measured = p90(boots)
    said = declaration.capacity.boot_s if declaration.capacity is not None else None
    return measured if measured is not None else said if said is not None else UNKNOWN_BOOT_S


def stage_s(demands: Iterable[Demand], nodes: Iterable[NodeState], feasible: frozenset[str], rules: Rules) -> float:
    """For all models of a window on one empty node, with the planner's own slack, at the least rate of nodes that would do."""
    rates = {node.name: node.rate_bytes_per_s for node in nodes if node.rate_bytes_per_s}
    alike = [rate for name, rate in rates.items() if name in feasible]
    rate = min(alike or rates.values(), default=rules.assumed_bytes_per_s)
    sizes = {one.artifact: one.size_bytes for one in demands}
    return (sum(sizes.values()) / rate + rules.guard_s) * rules.slack


def wanted(found: Iterable[Wish], now: float) -> dict[str, Wish]:
    """What is to be asked for now, by the schedule's UID: of several windows the most; of several schedules for the same pods the
    one that asks for the most, for they would get the same nodes."""
    by_schedule: dict[str, Wish] = {}
    for wish in found:
        if wish.is_open(now):
            before = by_schedule.get(wish.subject.uid)
            if before is None or _rank(wish) > _rank(before):
                by_schedule[wish.subject.uid] = wish
    best: dict[tuple[str, bytes], Wish] = {}
    for wish in by_schedule.values():
        key = wish.subject.namespace or "", wish.shape.alike
        if key not in best or _rank(wish) > _rank(best[key]):
            best[key] = wish
    return {wish.subject.uid: wish for wish in best.values()}


def next_at(found: Iterable[Wish], now: float) -> float:
    """When something is to be asked for, or not any more, though nothing happened."""
    return min((moment for wish in found for moment in (wish.at, wish.until) if moment > now), default=math.inf)


def _rank(wish: Wish) -> tuple[int, float, str]:
    return wish.count, wish.until, wish.subject.uid


def _present(collected: Collected) -> dict[str, int]:
    """Pods that are there, by the UID of their workload. Each model of a pod counts it: the most of them."""
    counts = defaultdict[tuple[str, str], int](int)
    for one in collected.demands:
        if one.trust in (Trust.BOUND, Trust.WAITING):
            line = collected.lines[one.id]
            counts[line.uid, line.alias] += sum(one.at.values()) if one.trust is Trust.BOUND else one.count
    found: dict[str, int] = {}
    for (uid, _), count in counts.items():
        found[uid] = max(found.get(uid, 0), count)
    return found
