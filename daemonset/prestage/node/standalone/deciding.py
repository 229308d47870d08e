"""From what is wanted, what the store holds and what the clock says to what begins now. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import Action, State
from prestage.calendar.windows import Opening
from prestage.node.standalone.demand_file import Key, Model
from prestage.planner.demands import Demand, ToldBy, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Assignment, Plan, Verdict
from prestage.planner.rules import Rules

NODE: Final = "here"
HORIZON_S: Final = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a model is, as its origin said."""

    artifact: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """The agent's store at one moment. `staging`: artifacts that stages are under way for."""

    limit_bytes: int
    used_bytes: int
    warm: frozenset[str] = frozenset()
    staging: frozenset[str] = frozenset()
    rate_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """One that is open, or comes next, and what the plan says of it."""

    model: Model
    name: str
    opening: Opening
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. `again_at`: when to look again though nothing happened."""

    begin: tuple[Model, ...] = ()
    windows: tuple[Window, ...] = ()
    again_at: float = math.inf
    plan: Plan = field(default_factory=Plan)


def decide(models: Sequence[Model], known: Mapping[Key, Known], store: Store, now: float, before: Plan | None = None) -> Decision:
    """`known`: by `Model.key`, those that are resolved. `before`: the last decision's plan."""
    demands, openings, changes_at = list[Demand](), dict[str, tuple[Model, str, Opening]](), math.inf
    by_artifact: dict[str, Model] = {}
    for number, model in enumerate(models):
        found = known.get(model.key)
        if found is None:
            continue
        by_artifact.setdefault(found.artifact, model)
        for name, window in model.windows:
            at = window.at(now)
            changes_at = min(changes_at, at.changes_at)
            for opening in (at.open, at.next):
                if opening is None or opening.begins - now > HORIZON_S:
                    continue
                is_always = opening.ends == math.inf
                demand_id = f"{number}/{name}/{'always' if is_always else f'{opening.begins:.0f}'}"
                demands.append(_demand(demand_id, found, opening, is_always=is_always))
                openings[demand_id] = model, name, opening
    made = plan(demands, [_node(store, before)], now, rules=Rules(peers=False), before=before)
    there = store.warm | store.staging
    begin = [by_artifact[one.artifact] for one in _staged(made) if one.artifact not in there]
    told = [Window(*openings[name], verdict) for name, verdict in made.verdicts.items() if name in openings]
    again_at = min(changes_at, math.inf if made.again_at is None else made.again_at)
    return Decision(tuple(begin), tuple(told), again_at, made)


def _demand(name: str, known: Known, opening: Opening, *, is_always: bool) -> Demand:
    return Demand(
        name,
        known.artifact,
        known.size_bytes,
        "",
        Trust.DECLARED,
        at={NODE: 1},
        feasible=frozenset({NODE}),
        ready_by=None if is_always else opening.begins,
        until=None if is_always else opening.ends,
        source=ToldBy.STAGING_SCHEDULE,
        copies=1,
    )


def _node(store: Store, before: Plan | None) -> NodeState:
    held = {one: Held(State.STAGING) for one in store.staging} | {one: Held(State.WARM) for one in store.warm}
    planned = {one.artifact: one for one in before.nodes[NODE].assignments} if before is not None and before.nodes else {}
    return NodeState(
        NODE,
        NODE,
        budget_bytes=store.limit_bytes,
        rate_bytes_per_s=store.rate_bytes_per_s,
        used_bytes=store.used_bytes,
        held=held,
        planned=planned,
    )


def _staged(made: Plan) -> list[Assignment]:
    return [one for one in made.nodes[NODE].assignments if one.action is Action.STAGE]
