"""What holds for every plan, whatever is asked and whatever is there."""

from __future__ import annotations

import random
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import NOW, World, carried_out, shown, worlds

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand, Trust
from prestage.planner.plan import plan
from prestage.planner.plans import Plan


def planned(world: World) -> Plan:
    return plan(world.demands, world.nodes, NOW, walls=world.walls)


def asked(world: World) -> list[Demand]:
    """Whose window is not over."""
    return [demand for demand in world.demands if demand.until is None or demand.until > NOW]


@given(worlds())
def test_no_node_is_promised_more_than_its_budget(world: World) -> None:
    made = planned(world)
    for node in world.nodes:
        assert node.budget_bytes is None or world.promised(made, node.name) <= node.budget_bytes


@given(worlds())
def test_no_namespace_is_promised_more_than_its_walls(world: World) -> None:
    made = planned(world)
    owners = defaultdict[str, set[str]](set)
    for demand in world.demands:
        owners[demand.artifact].add(demand.namespace)
    for namespace, wall in world.walls.items():
        total = 0
        for name, one in made.nodes.items():
            its = {given.artifact for given in one.assignments if given.action is not Action.RELEASE}
            charged = sum(world.sizes[artifact] for artifact in its if owners[artifact] == {namespace})
            assert wall.bytes_per_node is None or charged <= wall.bytes_per_node, name
            total += charged
        assert wall.bytes is None or total <= wall.bytes


@given(worlds())
def test_no_namespace_is_promised_more_than_its_pinned_bytes_of_what_it_declares_alone(world: World) -> None:
    made = planned(world)
    asking = defaultdict[str, list[Demand]](list)
    for demand in world.demands:
        asking[demand.artifact].append(demand)
    for namespace, wall in world.walls.items():
        alone = {
            artifact
            for artifact, demands in asking.items()
            if all(one.namespace == namespace and one.trust is Trust.DECLARED and one.ready_by is None for one in demands)
        }
        said = [given.artifact for one in made.nodes.values() for given in one.assignments if given.action is not Action.RELEASE]
        assert wall.pinned is None or sum(world.sizes[artifact] for artifact in said if artifact in alone) <= wall.pinned


@given(worlds(walls=False, is_shrunk=False))
def test_of_what_is_wanted_a_copy_stays_while_another_node_that_may_run_it_has_room(world: World) -> None:
    made = planned(world)
    wanted = {demand.artifact for demand in asked(world)}
    said = shown(made)
    for artifact in wanted:
        holders = [node for node in world.nodes if node.is_warm(artifact) and not node.is_leaving]
        if not holders or any(said[node.name].get(artifact) in (Action.STAGE, Action.KEEP) for node in holders):
            continue
        feasible = set[str]().union(*(demand.feasible for demand in asked(world) if demand.artifact == artifact))
        for node in world.nodes:
            if node.name in feasible and node not in holders and node.takes_more:
                assert node.budget_bytes is not None
                assert world.promised(made, node.name) + world.sizes[artifact] > node.budget_bytes


@given(worlds())
def test_nothing_that_is_wanted_is_released(world: World) -> None:
    wanted = {demand.artifact for demand in asked(world)}
    for said in shown(planned(world)).values():
        assert not {artifact for artifact, action in said.items() if action is Action.RELEASE} & wanted


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_never_matters(world: World, chance: random.Random) -> None:
    demands, nodes = list(world.demands), list(world.nodes)
    chance.shuffle(demands)
    chance.shuffle(nodes)
    assert plan(demands, nodes, NOW, walls=world.walls) == planned(world)


@given(worlds())
def test_without_demand_nothing_is_said_so_that_nothing_is_evicted(world: World) -> None:
    made = plan([], world.nodes, NOW, walls=world.walls)
    assert all(not one.assignments for one in made.nodes.values())
    assert made.nodes.keys() == {node.name for node in world.nodes}


@given(worlds(walls=False), st.sampled_from([State.STAGING, State.WARM]))
def test_a_plan_that_is_carried_out_stands(world: World, state: State) -> None:
    nodes, seen, made = world.nodes, list[object](), None
    for _ in range(12):  # what waits for a move comes once the move is done, what begins early one after the other
        made = plan(world.demands, nodes, NOW, before=made)
        seen.append([one.assignments for one in made.nodes.values()])
        nodes = carried_out(nodes, made, state=state)
    assert seen[-1] == seen[-2]


@given(worlds())
def test_every_demand_gets_a_verdict_and_every_bound_pod_its_node_or_a_reason(world: World) -> None:
    made = planned(world)
    assert made.verdicts.keys() == {demand.id for demand in world.demands}
    for demand in world.demands:
        verdict = made.verdicts[demand.id]
        assert set(verdict.nodes) <= demand.feasible or demand.trust is Trust.STANDING
        if demand.trust is Trust.BOUND:
            assert set(verdict.nodes) | verdict.refused.keys() == demand.at.keys()
