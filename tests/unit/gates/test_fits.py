"""What is kept of which nodes take a pod is what asking every node would say, whatever happened meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods.objects import node, pod
from pods.worlds import drop, put, world

from prestage.control.demand.feasibility import Needs, misfit, suits
from prestage.control.gates import fits
from prestage.control.gates.fits import Fits
from prestage.control.gates.looking import Look
from prestage.control.gates.world import World

NODES, PODS = ("a", "b", "c"), ("p", "q", "r")
TAINT = {"key": "team", "value": "x", "effect": "NoSchedule"}
STEPS = st.one_of(
    st.tuples(st.just("node"), st.sampled_from(NODES), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("gone"), st.sampled_from(NODES)),
    st.tuples(st.just("pod"), st.sampled_from(PODS), st.sampled_from(("", *NODES)), st.integers(1, 2)),
    st.tuples(st.just("ended"), st.sampled_from(PODS)),
    st.tuples(st.just("ask"), st.integers(1, 3)),
)


def needs_of(there: World, gpus: int) -> Needs:
    return there.wishes.of(pod(name=f"asks-{gpus}", gpus=gpus)).needs


def happens(there: World, step: tuple[object, ...]) -> None:
    match step:
        case ("node", str(name), int(gpus), bool(tainted)):
            put(there, node(name, gpus=gpus, taints=[TAINT] if tainted else None))
        case ("gone", str(name)):
            drop(there, node(name))
        case ("pod", str(name), str(at), int(gpus)):
            put(there, pod(name=name, gpus=gpus, spec={"nodeName": at} if at else None))
        case ("ended", str(name)):
            drop(there, pod(name=name))
        case ("ask", int(gpus)):
            there.fit(needs_of(there, gpus))


@given(st.lists(STEPS, max_size=30))
def test_it_says_what_every_node_says(steps: list[tuple[object, ...]]) -> None:
    there = world(node("a", gpus=2))
    for step in steps:
        happens(there, step)
    for gpus in (1, 2, 3):
        needs, sites = needs_of(there, gpus), there.sites()
        found = there.fit(needs)
        assert found.fitting == {name for name, site in sites.items() if suits(needs, site) is None}
        assert found.with_room == {name for name, site in sites.items() if misfit(needs, site) is None}


def test_who_is_about_to_land_is_no_news_of_the_node() -> None:
    there = world(node("a", gpus=1), node("b", gpus=1))
    asks = pod(gpus=1)
    needs = there.wishes.of(asks).needs
    look = Look(there, {"a": [asks]})
    assert look.fit(needs).with_room == {"b"}
    look.assume("b", asks)
    assert look.fit(needs).with_room == set()
    assert there.fit(needs).with_room == {"a", "b"}


def test_of_more_kinds_than_are_kept_the_one_asked_about_longest_ago_is_found_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "_NAMES_MAX", 5)
    there, kept = world(node("a", gpus=3), node("b", gpus=1)), Fits()
    first, second, third = (needs_of(there, gpus) for gpus in (1, 2, 3))
    for needs in (first, second, first, third):
        kept.of(needs, there.sites())
    assert list(kept._known) == [first, third]
    put(there, node("a", gpus=1))
    kept.changed("a")
    assert [kept.of(needs, there.sites()).with_room for needs in (first, second, third)] == [{"a", "b"}, set(), set()]
