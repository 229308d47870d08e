"""Models and images in one plan: two rooms on a node, the store and containerd's file system, and one idea of where pods will be.

    models     planned first, by plan.py
    images     the same way, after them, in their own room; where its pods' models go, or are, it goes too
    together   one NodePlan for each node, at most ENTRIES_MAX entries: models before images

Both come through one link; each is predicted as if it had it alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from prestage.api.nodes import ENTRIES_MAX, EntryType
from prestage.planner.demands import Demand, ToldBy, Trust, Wall
from prestage.planner.likeness import Parts
from prestage.planner.nodes import NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Assignment, NodePlan, Plan
from prestage.planner.rules import Rules
from prestage.planner.values import Use


def plan_apart(
    demand: Iterable[Demand],
    nodes: Sequence[NodeState],
    images: Sequence[NodeState],
    now: float,
    *,
    walls: Mapping[str, Wall] | None = None,
    rules: Rules | None = None,
    uses: Mapping[str, Use] | None = None,
    parts: Parts | None = None,
    before: Plan | None = None,
) -> Plan:
    """See `plan.plan`. `images`: the nodes that stage images, as that room of theirs is."""
    rules, models, pulled = rules or Rules(), list[Demand](), list[Demand]()
    for one in demand:
        (pulled if one.kind is EntryType.IMAGE else models).append(one)
    made = plan(models, nodes, now, walls=walls, rules=rules, uses=uses, parts=parts, before=before)
    if not pulled and not images:
        return made
    placed = beside(pulled, models, made, frozenset(one.name for one in images))
    alone = replace(rules, peers=False, origin_bytes_per_s=None)
    return together(made, plan(placed, images, now, walls=walls, rules=alone, uses=uses, parts=parts, before=before))


def beside(images: Iterable[Demand], models: Iterable[Demand], made: Plan, staging: frozenset[str]) -> list[Demand]:
    """Images that wait or are declared, held to the nodes that their pods' models were given. `staging`: nodes that stage images:
    what only comes along with its pods asks nothing of the others, where the kubelet pulls as ever."""
    places = defaultdict[tuple[str, Trust], set[str]](set)
    for one in models:
        if one.together and (verdict := made.verdicts.get(one.id)) is not None:
            places[one.together, one.trust] |= set(verdict.nodes)
    found = list[Demand]()
    for one in images:
        if one.trust is Trust.STANDING:
            found.append(one)
            continue
        there, count = frozenset(one.at), one.count
        if one.trust is not Trust.BOUND:
            there |= one.feasible
            there = (there & places.get((one.together, one.trust), set())) or there
        if one.source is not ToldBy.STAGING_SCHEDULE:
            there &= staging
            count = min(count, len(there)) if one.trust is Trust.DECLARED else count
            if not there:
                continue
        found.append(_narrower(one, there, count))
    return found


def _narrower(one: Demand, there: Collection[str], count: int) -> Demand:
    at = {name: number for name, number in one.at.items() if name in there}
    return replace(one, at=at, feasible=frozenset(there), count=count)


def together(models: Plan, images: Plan) -> Plan:
    """One of both."""
    nodes = dict(models.nodes)
    for name, one in images.nodes.items():
        if (there := nodes.get(name)) is not None:
            nodes[name] = _joined(there, one)
    moments = [moment for moment in (models.again_at, images.again_at) if moment is not None]
    return Plan(nodes, {**models.verdicts, **images.verdicts}, min(moments, default=None))


def _joined(models: NodePlan, images: NodePlan) -> NodePlan:
    left = max(0, ENTRIES_MAX - len(models.assignments))
    return replace(
        models,
        assignments=(*models.assignments, *map(_image, images.assignments[:left])),
        ready_at={**images.ready_at, **models.ready_at},
        later=(*models.later, *map(_image, images.later)),
    )


def _image(one: Assignment) -> Assignment:
    return replace(one, kind=EntryType.IMAGE)
