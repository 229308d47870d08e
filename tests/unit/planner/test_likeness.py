"""Which of several nodes: by shared blobs, by the image and other models of a pod, by where its pods find place. Never a must."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import NOW, World, declared, node, shown, waiting, worlds

from prestage.planner.demands import Demand
from prestage.planner.likeness import Likeness, Parts
from prestage.planner.plan import plan


def parts(of: Mapping[str, Mapping[int, int]]) -> Parts:
    return Parts(of, {part: {one for one, own in of.items() if part in own} for own in of.values() for part in own})


PARTS = parts({"base": {1: 20, 2: 10}, "tuned": {1: 20, 3: 5}, "other": {4: 25}})


def chosen(demand: Demand, *, small: int = 100, large: int = 900) -> list[str]:
    """Of two nodes: the one that holds the base has less room."""
    nodes = [node("n1", small, "base"), node("n2", large, "other")]
    made = plan([demand], nodes, NOW, parts=PARTS)
    return [name for name, said in shown(made).items() if demand.artifact in said]


@pytest.mark.parametrize("said", [waiting, declared])
def test_a_node_that_holds_shared_blobs_is_chosen_before_one_with_more_room(said: object) -> None:
    assert callable(said)
    assert chosen(said("tuned", "n1", "n2", size=25)) == ["n1"]
    assert chosen(said("alien", "n1", "n2", size=25)) == ["n2"]


def test_shared_blobs_never_make_room_that_is_not_there() -> None:
    assert chosen(waiting("tuned", "n1", "n2", size=25), small=24) == ["n2"]


def test_a_hundredth_of_its_bytes_is_no_reason_to_prefer_a_node_with_less_room() -> None:
    assert chosen(waiting("tuned", "n1", "n2", size=99), small=200) == ["n1"]
    assert chosen(waiting("tuned", "n1", "n2", size=1001), small=1500, large=9000) == ["n2"]


def test_what_it_holds_itself_is_not_counted_and_a_part_that_two_others_have_once() -> None:
    there = {"tuned": {"n1"}, "base": {"n2", "n3"}, "other": {"n3"}, "more": {"n3"}}
    shared = parts({"base": {1: 20, 2: 10}, "tuned": {1: 20, 3: 5}, "other": {4: 25}, "more": {1: 20, 3: 5}})
    assert Likeness(shared, there).saved_bytes(waiting("tuned", "n1", size=25)) == {"n2": 20, "n3": 25}


def test_what_is_promised_in_the_same_plan_counts_for_the_next_demand() -> None:
    nodes = [node("n1", 300), node("n2", 290), node("n3", 280)]
    first, second = waiting("base", "n3", size=30), waiting("tuned", "n1", "n2", "n3", size=25)
    alike = dataclasses.replace(waiting("alike", "n2", size=20), priority=2)
    shared = parts({"base": {1: 20}, "tuned": {1: 20}, "alike": {1: 20}})
    made = plan([alike, dataclasses.replace(first, priority=1), second], nodes, NOW, parts=shared)
    assert "tuned" in {**shown(made)["n2"], **shown(made)["n3"]}
    alone = plan([dataclasses.replace(first, priority=1), second], nodes, NOW, parts=shared)
    assert "tuned" in shown(alone)["n3"]


def test_of_a_part_that_very_many_have_not_all_are_asked_for_and_the_same_ones_whatever_the_order() -> None:
    many = {f"m{number:03}": {1: 20} for number in range(100)}
    nodes = [node("n1", 100, "m000"), node("n2", 900), node("n3", 200, "m099")]
    demand = waiting("m050", "n1", "n2", "n3", size=25)
    for ordered in (many, dict(reversed(many.items()))):
        assert [name for name, said in shown(plan([demand], nodes, NOW, parts=parts(ordered))).items() if "m050" in said] == [
            "n3"
        ]


def test_a_node_with_the_image_of_its_pods_is_chosen_and_where_both_are_warm_that_one() -> None:
    nodes = [node("n1", 100, "image"), node("n2", 900), node("n3", 900)]
    model = dataclasses.replace(waiting("model", "n1", "n2", "n3"), beside={"image": 8})
    assert "model" in shown(plan([model], nodes, NOW))["n1"]
    warm = [node("n1", 100, "model"), node("n2", 90, "model", "image")]
    made = plan([model], warm, NOW)
    assert made.verdicts[model.id].nodes == ("n2",)


def test_a_window_that_is_near_gets_a_copy_where_its_pods_find_place() -> None:
    nodes = [node("n1", 100, "a"), node("n2", 100)]
    near = dataclasses.replace(declared("a", "n1", "n2", ready_by=NOW + 600), at={"n2": 1})
    assert plan([near], nodes, NOW).verdicts["d-a"].nodes == ("n2",)
    far = dataclasses.replace(near, ready_by=NOW + 6 * 3600)
    assert plan([far], nodes, NOW).verdicts["d-a"].nodes == ("n1",)
    full = dataclasses.replace(near, at={})
    assert plan([full], nodes, NOW).verdicts["d-a"].nodes == ("n1",)


@given(
    worlds(),
    st.dictionaries(
        st.sampled_from([f"a{number}" for number in range(6)]),
        st.dictionaries(st.integers(1, 3), st.integers(1, 30), max_size=3),
        max_size=6,
    ),
)
def test_likeness_never_breaks_a_budget_nor_depends_on_the_order(world: World, of: dict[str, dict[int, int]]) -> None:
    made = plan(world.demands, world.nodes, NOW, walls=world.walls, parts=parts(of))
    for one in world.nodes:
        assert one.budget_bytes is None or world.promised(made, one.name) <= one.budget_bytes
    assert made == plan(world.demands[::-1], world.nodes[::-1], NOW, walls=world.walls, parts=parts(of))
