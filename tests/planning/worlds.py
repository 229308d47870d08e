"""Small clusters for the planner's tests: by hand, and drawn by hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plans import NodePlan, Plan

NOW = 1_000_000.0
WARM = Held(State.WARM)


def node(name: str, budget: int | None = 100, *warm: str, rate: float | None = 10.0, is_accepting: bool = True) -> NodeState:
    held = dict.fromkeys(warm, WARM)
    return NodeState(name, f"uid-{name}", budget, is_accepting=is_accepting, rate_bytes_per_s=rate, held=held)


def bound(artifact: str, *nodes: str, size: int = 30, feasible: Iterable[str] = (), **more: Any) -> Demand:
    made = Demand(f"b-{artifact}-{'-'.join(nodes)}", artifact, size, "team", Trust.BOUND, dict.fromkeys(nodes, 1))
    return dataclasses.replace(made, feasible=frozenset(feasible) | set(nodes), gpus=1, **more)


def waiting(artifact: str, *nodes: str, size: int = 30, count: int = 1, feasible: Iterable[str] = (), **more: Any) -> Demand:
    made = Demand(f"w-{artifact}", artifact, size, "team", Trust.WAITING, dict.fromkeys(nodes, 1), count=count)
    return dataclasses.replace(made, feasible=frozenset(feasible) | set(nodes), **more)


def standing(artifact: str, *nodes: str, size: int = 30, **more: Any) -> Demand:
    made = Demand(f"s-{artifact}", artifact, size, "team", Trust.STANDING, feasible=frozenset(nodes))
    return dataclasses.replace(made, **more)


def declared(artifact: str, *nodes: str, size: int = 30, count: int = 1, **more: Any) -> Demand:
    made = Demand(f"d-{artifact}", artifact, size, "team", Trust.DECLARED, feasible=frozenset(nodes), count=count)
    return dataclasses.replace(made, gpus=1, **more)


def shown(plan: Plan) -> dict[str, dict[str, Action]]:
    """Node, artifact, action."""
    return {name: {one.artifact: one.action for one in made.assignments} for name, made in plan.nodes.items()}


def carried_out(nodes: Iterable[NodeState], plan: Plan, *, state: State) -> list[NodeState]:
    """As they report once they did what it says: what is to be staged is in `state`."""
    return [_after(one, plan.nodes[one.name], state) for one in nodes]


def _after(node: NodeState, made: NodePlan, state: State) -> NodeState:
    held = dict(node.held)
    for one in made.assignments:
        if one.action is Action.STAGE and not node.is_warm(one.artifact):
            held[one.artifact] = Held(state)
    return dataclasses.replace(node, held=held, planned={one.artifact: one for one in made.assignments})


@dataclass(frozen=True, slots=True)
class World:
    """What `plan` is given."""

    demands: list[Demand]
    nodes: list[NodeState]
    walls: Mapping[str, Wall]
    sizes: Mapping[str, int]

    def promised(self, plan: Plan, name: str) -> int:
        """Bytes that are staged or kept on a node."""
        return sum(self.sizes[one.artifact] for one in plan.nodes[name].assignments if one.action is not Action.RELEASE)


_ARTIFACTS = [f"a{number}" for number in range(6)]


@st.composite
def worlds(draw: st.DrawFn, *, walls: bool = True, is_shrunk: bool = True) -> World:
    """Up to 5 nodes, 6 artifacts, 10 demands of two namespaces. `is_shrunk`: a node may hold more than its budget."""
    sizes = {one: draw(st.integers(1, 60)) for one in _ARTIFACTS}
    names = [f"n{number}" for number in range(draw(st.integers(1, 5)))]
    subsets = st.frozensets(st.sampled_from(names))
    nodes = [_drawn_node(draw, name, sizes, is_shrunk=is_shrunk) for name in names]
    demands = list[Demand]()
    for number in range(draw(st.integers(0, 10))):
        artifact = draw(st.sampled_from(_ARTIFACTS))
        trust = draw(st.sampled_from(list(Trust)))
        begins = draw(st.none() | st.integers(-50, 200)) if trust in (Trust.DECLARED, Trust.FOLLOW_ON) else None
        ready_by = None if begins is None else NOW + begins
        lasts = draw(st.none() | st.integers(1, 100)) if begins is not None else None
        at = {} if trust is Trust.STANDING else dict.fromkeys(sorted(draw(subsets)), draw(st.integers(1, 3)))
        demands.append(
            Demand(
                f"d{number}",
                artifact,
                sizes[artifact],
                draw(st.sampled_from(["red", "blue"])),
                trust,
                at,
                draw(subsets) | at.keys(),
                count=draw(st.integers(0, 4)),
                ready_by=ready_by,
                until=None if lasts is None or ready_by is None else ready_by + lasts,
                copies=draw(st.none() | st.integers(0, 3)) if trust is Trust.DECLARED else None,
                gpus=draw(st.integers(0, 8)),
                priority=draw(st.integers(-5, 5)),
            )
        )
    limits = st.none() | st.integers(0, 200)
    walled = (
        {name: Wall(draw(limits), draw(limits), draw(limits), draw(st.none() | st.just(3))) for name in ("red", "blue")}
        if walls
        else {}
    )
    return World(demands, nodes, walled, sizes)


def _drawn_node(draw: st.DrawFn, name: str, sizes: Mapping[str, int], *, is_shrunk: bool) -> NodeState:
    states = st.sampled_from([State.WARM, State.WARM, State.STAGING, State.FAILED])
    held = {one: Held(draw(states)) for one in sorted(draw(st.frozensets(st.sampled_from(_ARTIFACTS), max_size=4)))}
    least = 0 if is_shrunk else sum(sizes[one] for one, found in held.items() if found.state is State.WARM)
    budget = draw(st.none() | st.integers(least, least + 150))
    rate = draw(st.none() | st.just(10.0))
    return NodeState(
        name,
        f"uid-{name}",
        budget,
        is_accepting=draw(st.booleans()),
        rate_bytes_per_s=rate,
        is_leaving=draw(st.booleans()) and draw(st.booleans()),
        used_bytes=draw(st.none() | st.integers(0, 150)),
        held=held,
    )
