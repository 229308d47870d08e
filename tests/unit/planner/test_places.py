"""Pods of several demands for one artifact do not count on the same place."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import NOW, declared, node, shown, waiting

from prestage.planner.demands import Demand
from prestage.planner.places import Places
from prestage.planner.plan import plan
from prestage.planner.plans import Outcome

NAMES = ("n1", "n2", "n3")


def several(one: Demand, count: int) -> list[Demand]:
    return [dataclasses.replace(one, id=f"{one.id}-{number}") for number in range(count)]


def near(**at: int) -> Demand:
    return dataclasses.replace(declared("a", *NAMES, ready_by=NOW + 600, until=NOW + 1200), at=at)


@pytest.mark.parametrize("one", [near(n1=1, n2=1, n3=1), waiting("a", *NAMES)])
def test_each_of_three_workloads_of_one_model_gets_a_copy_where_there_is_place_for_it(one: Demand) -> None:
    made = plan(several(one, 3), [node("n1", 100, "a"), node("n2"), node("n3")], NOW)
    assert [verdict.nodes for verdict in made.verdicts.values()] == [("n1",), ("n2",), ("n3",)]


@pytest.mark.parametrize("one", [near(n1=3), waiting("a", "n1", feasible=NAMES)])
def test_no_copy_more_than_there_are_places_and_none_less_where_places_are_few(one: Demand) -> None:
    for count in (3, 5):
        made = plan(several(one, count), [node("n1", 100, "a"), node("n2"), node("n3")], NOW)
        assert {name for name, said in shown(made).items() if "a" in said} == {"n1"}
        assert {verdict.outcome for verdict in made.verdicts.values()} == {Outcome.ON_TIME}


def test_pods_of_one_demand_that_find_less_place_than_fits_go_on_to_the_next_node() -> None:
    first, second = several(dataclasses.replace(near(n1=4, n2=4), count=3), 2)
    made = plan([first, second], [node("n1", 100, "a"), node("n2")], NOW)
    assert made.verdicts[first.id].nodes == ("n1",)
    assert made.verdicts[second.id].nodes == ("n1", "n2")


def test_a_window_that_is_far_claims_no_place() -> None:
    far = dataclasses.replace(near(n1=1, n2=1), ready_by=NOW + 7200, until=NOW + 7500)
    made = plan(several(far, 2), [node("n1", 100, "a"), node("n2")], NOW)
    assert {verdict.nodes for verdict in made.verdicts.values()} == {("n1",)}


@given(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=6))
def test_no_more_pods_than_fit_are_given_a_place(fits: int, asking: list[int]) -> None:
    places, demand, given_out = Places(), waiting("a", "n1"), 0
    demand = dataclasses.replace(demand, at={"n1": fits} if fits else {})
    for pods in asking:
        taken = min(pods, places.left(demand, "n1"))
        places.take(demand, "n1", taken)
        given_out += taken
    assert given_out == min(sum(asking), max(1, fits))
