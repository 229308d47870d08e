"""Which of several nodes: by shared blobs, by the image and other models of a pod, by where its pods find place. Never a must."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import NOW, World, declared, node, shown, waiting, worlds

from prestage.planner.demands import Demand
from prestage.planner.plan import plan

PARTS = {"base": {"layer": 20, "own": 10}, "tuned": {"layer": 20, "delta": 5}, "other": {"else": 25}}


def chosen(demand: Demand, *, small: int = 100) -> list[str]:
    """Of two nodes: the one that holds the base has less room."""
    nodes = [node("n1", small, "base"), node("n2", 900, "other")]
    made = plan([demand], nodes, NOW, parts=PARTS)
    return [name for name, said in shown(made).items() if demand.artifact in said]


@pytest.mark.parametrize("said", [waiting, declared])
def test_a_node_that_holds_shared_blobs_is_chosen_before_one_with_more_room(said: object) -> None:
    assert callable(said)
    assert chosen(said("tuned", "n1", "n2", size=25)) == ["n1"]
    assert chosen(said("alien", "n1", "n2", size=25)) == ["n2"]


def test_shared_blobs_never_make_room_that_is_not_there() -> None:
    assert chosen(waiting("tuned", "n1", "n2", size=25), small=24) == ["n2"]


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
        st.dictionaries(st.sampled_from("xyz"), st.integers(1, 30), max_size=3),
        max_size=6,
    ),
)
def test_likeness_never_breaks_a_budget_nor_depends_on_the_order(world: World, parts: dict[str, dict[str, int]]) -> None:
    made = plan(world.demands, world.nodes, NOW, walls=world.walls, parts=parts)
    for one in world.nodes:
        assert one.budget_bytes is None or world.promised(made, one.name) <= one.budget_bytes
    assert made == plan(world.demands[::-1], world.nodes[::-1], NOW, walls=world.walls, parts=parts)
