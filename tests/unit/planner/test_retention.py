"""What is kept when not all can be: by worth per byte, without flapping."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import NOW, World, bound, carried_out, declared, node, shown, worlds

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand, Trust
from prestage.planner.ledger import Ledger
from prestage.planner.nodes import NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Plan
from prestage.planner.rules import Worth
from prestage.planner.values import Use, bounded, used

HALF_LIFE_S = Worth().half_life_s


def uses(**weights: float) -> dict[str, Use]:
    """Of 10 bytes each."""
    return {artifact: Use(weight, NOW, 10) for artifact, weight in weights.items()}


def kept(made: Plan, name: str = "n1") -> set[str]:
    return {artifact for artifact, action in shown(made)[name].items() if action is Action.KEEP}


def test_a_giant_that_comes_once_does_not_flush_ten_hot_models() -> None:
    hot = {f"hot{number}": 30.0 + number for number in range(10)}
    counted = {**uses(**hot), "giant": Use(1.0, NOW, 60)}
    n1 = dataclasses.replace(node("n1", 150, *hot), used_bytes=100)
    during = plan([bound("giant", "n1", size=60)], [n1], NOW, uses=counted)
    assert shown(during)["n1"]["giant"] is Action.STAGE
    assert kept(during) == {f"hot{number}" for number in range(1, 10)}  # the least of them makes room
    [after] = carried_out([n1], during, state=State.WARM)
    after = dataclasses.replace(after, held={one: held for one, held in after.held.items() if one != "hot0"})
    again = plan([bound("next", "n1", size=50)], [after], NOW, uses=counted)
    assert kept(again) == {f"hot{number}" for number in range(1, 10)}  # its pod has ended: it goes first


def test_of_two_that_are_started_as_often_the_small_one_is_worth_more_for_its_bytes() -> None:
    counted = {"small": Use(5.0, NOW, 10), "large": Use(5.0, NOW, 28)}
    made = plan([bound("new", "n1", size=65)], [node("n1", 100, "small", "large")], NOW, uses=counted)
    assert kept(made) == {"small"}


def test_what_is_nearly_as_good_does_not_push_out_what_was_kept() -> None:
    counted = uses(old=10.0, new=11.0)
    n1 = node("n1", 40, "old", "new")
    demand = bound("pod", "n1", size=25)
    first = plan([demand], [n1], NOW, uses=counted)
    assert kept(first) == {"new"}
    [after] = carried_out([n1], first, state=State.WARM)
    assert kept(plan([demand], [after], NOW, uses={**counted, **uses(old=12.5)})) == {"new"}
    assert kept(plan([demand], [after], NOW, uses={**counted, **uses(old=14.0)})) == {"old"}


def test_a_window_to_come_is_worth_the_starts_that_it_says() -> None:
    n1, other = node("n1", 40, "quiet", "busy"), node("n2", 40, "quiet", "busy")
    demands = [
        bound("pod", "n1", size=25),
        declared("quiet", "n1", "n2", size=10, ready_by=NOW + 3600, copies=2, count=9),
    ]
    assert "busy" in kept(plan(demands[:1], [n1, other], NOW, uses=uses(quiet=1.0, busy=9.0)))
    assert shown(plan(demands, [n1, other], NOW, uses=uses(quiet=1.0, busy=9.0)))["n1"].keys() == {"pod", "quiet"}


def test_a_follow_on_pushes_out_what_is_worth_clearly_less_and_nothing_else() -> None:
    follow = Demand("f", "a", 50, "team", Trust.FOLLOW_ON, {"n1": 1}, frozenset({"n1"}), gpus=1)
    full = dataclasses.replace(node("n1", 100, "old"), used_bytes=90)
    for weight, goes in ((0.05, True), (50.0, False)):
        made = plan([follow], [full], NOW, uses={"old": Use(weight, NOW, 50)})
        assert ("a" in shown(made)["n1"]) is goes


def test_a_window_begins_the_sooner_the_cheaper_what_has_to_go() -> None:
    full = dataclasses.replace(node("n1", 100, "old"), used_bytes=90)
    demand = declared("a", "n1", size=50, ready_by=NOW + 20 * 3600)
    moments = list[float]()
    for weight in (0.1, 1.0, 10.0):
        made = plan([demand], [full], NOW, uses={"old": Use(weight, NOW, 50)})
        [later] = made.nodes["n1"].later
        moments.append(later.not_before or 0.0)
    assert moments == sorted(moments)
    assert len(set(moments)) == 3


def test_a_second_copy_of_what_nobody_wants_now_goes_before_an_only_one_that_is_worth_less() -> None:
    counted = {"often": Use(3.0, NOW, 30), "less": Use(2.0, NOW, 30)}
    nodes = [node("n1", 100, "often"), node("n2", 100, "often", "less")]
    made = plan([bound("pod", "n2", size=50)], nodes, NOW, uses=counted)
    assert (kept(made, "n1"), kept(made, "n2")) == ({"often"}, {"less"})


def test_a_start_counts_half_after_its_half_life() -> None:
    use = used(None, at=0.0, size_bytes=10, gpus=1, half_life_s=100.0)
    use = used(use, at=100.0, size_bytes=10, gpus=2, half_life_s=100.0)
    assert (use.weight, use.weight_at(200.0, 100.0), use.gpus) == (1.5, 0.75, 2)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_counting_one_by_one_is_the_sum_of_all(moments: list[float]) -> None:
    use: Use | None = None
    for at in sorted(moments):
        use = used(use, at=at, size_bytes=1, gpus=1, half_life_s=HALF_LIFE_S)
    assert use is not None
    assert use.weight == pytest.approx(sum(math.exp2(-(max(moments) - at) / HALF_LIFE_S) for at in moments))


def test_what_is_remembered_is_bounded_and_the_most_worth_it() -> None:
    many = {f"a{number}": Use(float(number), NOW, 1) for number in range(10)}
    assert set(bounded(many, NOW, HALF_LIFE_S, most=3)) == {"a7", "a8", "a9"}


_COUNTS = st.dictionaries(st.sampled_from([f"a{number}" for number in range(6)]), st.floats(0, 50), max_size=6)


@given(worlds(), _COUNTS)
def test_history_never_breaks_a_budget_nor_takes_what_demand_has(world: World, weights: dict[str, float]) -> None:
    counted = {artifact: Use(weight, NOW, world.sizes[artifact]) for artifact, weight in weights.items()}
    made = plan(world.demands, world.nodes, NOW, walls=world.walls, uses=counted)
    for one in world.nodes:
        assert one.budget_bytes is None or world.promised(made, one.name) <= one.budget_bytes
    plain = plan(world.demands, world.nodes, NOW, walls=world.walls)
    for demand in world.demands:
        if demand.trust in (Trust.BOUND, Trust.WAITING):
            assert made.verdicts[demand.id].nodes == plain.verdicts[demand.id].nodes


@given(worlds(walls=False), _COUNTS)
def test_with_history_too_a_plan_that_is_carried_out_stands(world: World, weights: dict[str, float]) -> None:
    counted = {artifact: Use(weight, NOW, world.sizes[artifact]) for artifact, weight in weights.items()}
    nodes: list[NodeState] = world.nodes
    seen = list[object]()
    for _ in range(12):
        made = plan(world.demands, nodes, NOW, uses=counted)
        seen.append([one.assignments for one in made.nodes.values()])
        nodes = carried_out(nodes, made, state=State.WARM)
    assert seen[-1] == seen[-2]


@given(worlds(), _COUNTS)
def test_where_all_have_room_the_plan_is_the_one_that_weighing_gives(world: World, weights: dict[str, float]) -> None:
    counted = {artifact: Use(weight, NOW, world.sizes[artifact]) for artifact, weight in weights.items()}
    quick = plan(world.demands, world.nodes, NOW, walls=world.walls, uses=counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "has_room_for", lambda ledger, book, demands, spacious: False)
        assert plan(world.demands, world.nodes, NOW, walls=world.walls, uses=counted) == quick
