"""CachePolicies as the plan goes by them, and what is planned while one of them cannot be read. Pure.

A policy that cannot be read may be any wall: the broker resolves nothing for anybody, and nothing new is staged. What nodes hold,
or were told to hold before, stays; nothing is released. The object comes from a later version, for the API server refuses others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prestage.api.nodes import Action
from prestage.api.policies import CachePolicy
from prestage.api.reading import Invalid, read
from prestage.kube.ports import Object, name_of
from prestage.planner.nodes import NodeState
from prestage.planner.plans import NodePlan, Plan


@dataclass(frozen=True, slots=True)
class Policies:
    """`broken`: name to why."""

    known: tuple[CachePolicy, ...]
    broken: Mapping[str, str]


def read_policies(seen: Iterable[Object]) -> Policies:
    """All of them."""
    known, broken = list[CachePolicy](), dict[str, str]()
    for one in seen:
        try:
            known.append(read(CachePolicy, one))
        except Invalid as exc:
            broken[name_of(one)] = str(exc)
    return Policies(tuple(known), broken)


def frozen(plan: Plan, nodes: Iterable[NodeState]) -> tuple[Plan, frozenset[str]]:
    """The plan without what is new in it, and the artifacts that were left out."""
    states = {node.name: node for node in nodes}
    made = {name: _frozen(said, states[name]) for name, said in plan.nodes.items()}
    left_out = {
        one.artifact
        for name, said in plan.nodes.items()
        for one in said.assignments
        if one.action is Action.STAGE and one not in made[name].assignments
    }
    return replace(plan, nodes=made), frozenset(left_out)


def _frozen(said: NodePlan, node: NodeState) -> NodePlan:
    before = {artifact for artifact, one in node.planned.items() if one.action is not Action.RELEASE}
    there = before | node.held.keys()
    kept = [one for one in said.assignments if one.artifact in there and one.action is not Action.RELEASE]
    kept += [node.planned[artifact] for artifact in sorted(before - {one.artifact for one in kept})]
    return replace(said, assignments=tuple(kept))
