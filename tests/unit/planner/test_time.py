"""What begins when, by example and for all: windows, their latest safe start, and what is told ahead."""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from planning.worlds import NOW, World, bound, carried_out, declared, node, shown, standing, waiting, worlds

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.links import Link
from prestage.planner.nodes import NodeState, RateWindow
from prestage.planner.plan import Rules, plan
from prestage.planner.plans import Outcome, Plan, Reason, Remedy
from prestage.planner.rooms import OPEN, Room, Span, uncovered
from prestage.planner.timing import Timing

STAGE, KEEP = Action.STAGE, Action.KEEP
STRICT = Rules(slack=1.0, guard_s=0.0)


def full(name: str, budget: int = 100, *warm: str, **more: Any) -> NodeState:
    """Of which everything is in use: whatever comes pushes something out."""
    made = dataclasses.replace(node(name, budget, *warm), used_bytes=budget)
    return dataclasses.replace(made, **more)


def idle(name: str, budget: int = 100, *warm: str, used: int = 0, **more: Any) -> NodeState:
    made = dataclasses.replace(node(name, budget, *warm), used_bytes=used)
    return dataclasses.replace(made, **more)


def told(made: Plan, name: str = "n1") -> dict[str, float | None]:
    """What a node is not told yet, and when it will be."""
    return {one.artifact: one.not_before for one in made.nodes[name].later}


def test_a_window_is_staged_at_once_where_the_link_is_idle_and_nothing_has_to_go() -> None:
    made = plan([declared("a", "n1", ready_by=NOW + 3600)], [idle("n1")], NOW)
    assert (shown(made), told(made)) == ({"n1": {"a": STAGE}}, {})
    verdict = made.verdicts["d-a"]
    assert (verdict.outcome, verdict.reason, verdict.ready_at) == (Outcome.ON_TIME, Reason.STAGING, NOW + 3)


def test_where_something_would_have_to_go_it_begins_at_its_latest_safe_start() -> None:
    demand = declared("a", "n1", size=30, ready_by=NOW + 3600)
    made = plan([demand], [full("n1")], NOW)  # 30 bytes at 10 a second, 5 s to publish, a third more: 10.4 s
    assert shown(made) == {"n1": {}}
    assert told(made)["a"] == pytest.approx(NOW + 3600 - 8 * 1.3)
    assert made.again_at == pytest.approx(NOW + 3600 - 10.4)
    verdict = made.verdicts["d-a"]
    assert (verdict.outcome, verdict.reason, verdict.start_by) == (Outcome.ON_TIME, Reason.PLANNED, NOW + 3592)
    assert shown(plan([demand], [full("n1")], made.again_at or 0.0)) == {"n1": {"a": STAGE}}


def test_what_was_begun_goes_on_though_the_link_and_the_room_are_taken_now() -> None:
    demand, nodes = declared("a", "n1", ready_by=NOW + 3600), [idle("n1")]
    made = plan([demand], nodes, NOW)
    later = carried_out(nodes, made, state=State.STAGING)
    later = [dataclasses.replace(one, used_bytes=100) for one in later]
    assert shown(plan([demand, bound("b", "n1")], later, NOW)) == {"n1": {"a": STAGE, "b": STAGE}}


def test_what_was_begun_early_makes_way_for_what_has_to_begin_now_and_goes_on_afterwards() -> None:
    late, soon = declared("late", "n1", size=100, ready_by=NOW + 3600), declared("soon", "n1", size=50, ready_by=NOW + 12)
    nodes = [idle("n1", 500)]
    first = plan([late], nodes, NOW)
    running = carried_out(nodes, first, state=State.STAGING)
    made = plan([late, soon], running, NOW, before=first)
    assert (shown(made), told(made)) == ({"n1": {"soon": STAGE}}, {"late": NOW + 5})
    assert {one.outcome for one in made.verdicts.values()} == {Outcome.ON_TIME}
    [after] = carried_out(running, made, state=State.WARM)
    after = dataclasses.replace(after, held={"soon": after.held["soon"]})
    assert shown(plan([late, soon], [after], NOW + 5, before=made)) == {"n1": {"soon": STAGE, "late": STAGE}}
    unhurried = dataclasses.replace(soon, ready_by=NOW + 600)
    assert "late" in shown(plan([late, unhurried], running, NOW, before=first))["n1"]


def test_of_several_windows_the_link_takes_one_at_a_time_the_soonest_first() -> None:
    demands = [declared("a", "n1", ready_by=NOW + 7200), declared("b", "n1", ready_by=NOW + 3600)]
    nodes = [idle("n1")]
    made = plan(demands, nodes, NOW)
    assert (shown(made), list(told(made))) == ({"n1": {"b": STAGE}}, ["a"])
    after = carried_out(nodes, made, state=State.WARM)
    assert shown(plan(demands, after, NOW)) == {"n1": {"a": STAGE, "b": STAGE}}


def test_latest_starts_follow_backwards_from_the_deadlines() -> None:
    demands = [declared(name, "n1", size=50, ready_by=NOW + at) for name, at in (("a", 100), ("b", 102), ("c", 300))]
    made = plan(demands, [full("n1", 200)], NOW, rules=STRICT)
    assert {name: made.verdicts[f"d-{name}"].start_by for name in "abc"} == {"a": NOW + 92, "b": NOW + 97, "c": NOW + 295}
    assert told(made) == {"a": NOW + 92, "b": NOW + 97, "c": NOW + 295}


def test_a_waiting_pod_goes_before_a_window_and_the_window_says_why_it_is_late() -> None:
    demands = [declared("a", "n1", size=40, ready_by=NOW + 6), waiting("b", "n1", size=50)]
    made = plan(demands, [idle("n1")], NOW, rules=STRICT)
    assert (shown(made), told(made)) == ({"n1": {"b": STAGE}}, {"a": NOW + 2})
    verdict = made.verdicts["d-a"]
    assert (verdict.outcome, verdict.reason, verdict.late_by_s) == (Outcome.LATE, Reason.LINK_BUSY, 3.0)
    assert verdict.fix is not None
    assert (verdict.fix.remedy, verdict.fix.node, verdict.fix.amount) == (Remedy.RATE, "n1", 15.0)


def test_notice_that_is_too_short_is_told_with_the_rate_that_would_do() -> None:
    verdict = plan([declared("a", "n1", size=100, ready_by=NOW + 4)], [idle("n1")], NOW).verdicts["d-a"]
    assert (verdict.outcome, verdict.reason, verdict.late_by_s) == (Outcome.LATE, Reason.TOO_SOON, 6.0)
    assert verdict.fix is not None
    assert (verdict.fix.remedy, verdict.fix.amount) == (Remedy.RATE, 25.0)


def test_a_node_that_would_be_late_is_left_for_one_that_is_not() -> None:
    slow, fast = dataclasses.replace(idle("n1", 900), rate_bytes_per_s=1.0), idle("n2")
    made = plan([declared("a", "n1", "n2", size=50, ready_by=NOW + 20)], [slow, fast], NOW)
    assert shown(made) == {"n1": {}, "n2": {"a": STAGE}}


@given(worlds())
def test_where_no_link_is_fast_enough_not_asking_says_what_asking_would(world: World) -> None:
    made = plan(world.demands, world.nodes, NOW, walls=world.walls)
    with mock.patch.object(Timing, "is_hopeless", return_value=False):
        assert plan(world.demands, world.nodes, NOW, walls=world.walls) == made


def test_of_a_window_that_no_link_can_meet_no_node_is_asked_and_a_warm_one_still_comes_first() -> None:
    nodes = [idle(f"n{number}", rate_bytes_per_s=1.0) for number in range(1, 4)]
    late = declared("a", "n1", "n2", "n3", size=50, ready_by=NOW + 20)
    with mock.patch.object(Timing, "misses") as asked:
        assert plan([late], nodes, NOW, rules=STRICT).verdicts["d-a"].nodes == ("n1",)
    asked.assert_not_called()
    there = [*nodes[:2], idle("n3", 60, "a", rate_bytes_per_s=1.0)]
    assert plan([late], there, NOW, rules=STRICT).verdicts["d-a"].nodes == ("n3",)
    elsewhere = dataclasses.replace(late, at={"n1": 1})  # there its pods find place, but nobody brings it there in time
    assert plan([elsewhere], there, NOW, rules=STRICT).verdicts["d-a"].nodes == ("n3",)


def test_a_slow_window_of_the_day_makes_the_start_earlier() -> None:
    slow = RateWindow(NOW + 50, NOW + 100, 1.0)
    made = plan([declared("a", "n1", size=60, ready_by=NOW + 100)], [full("n1", rate_windows=(slow,))], NOW, rules=STRICT)
    assert made.verdicts["d-a"].start_by == NOW + 49  # 50 bytes slowly, 10 before


def test_a_node_without_a_measured_rate_gets_a_careful_one_and_nobody_can_tell_when() -> None:
    demand = declared("a", "n1", size=100, ready_by=NOW + 1000)
    blank = full("n1", rate_bytes_per_s=None)
    made = plan([demand], [blank], NOW, rules=dataclasses.replace(STRICT, assumed_bytes_per_s=1.0))
    assert told(made) == {"a": NOW + 900}
    assert (made.verdicts["d-a"].ready_at, made.verdicts["d-a"].late_by_s) == (None, None)


def test_a_window_asks_for_as_many_nodes_as_copies_and_says_how_many_are_missing() -> None:
    nodes = [idle(name) for name in ("n1", "n2", "n3")]
    names = [one.name for one in nodes]
    assert sum(map(len, shown(plan([declared("a", *names, copies=2)], nodes, NOW)).values())) == 2
    tight = [*nodes[:1], idle("n2", 10)]
    verdict = plan([declared("a", "n1", "n2", copies=3)], tight, NOW).verdicts["d-a"]
    assert (verdict.outcome, verdict.reason, verdict.missing) == (Outcome.LATE, Reason.TOO_FEW_NODES, 2)
    assert verdict.nodes == ("n1",)
    assert verdict.fix is not None
    assert (verdict.fix.remedy, verdict.fix.amount, verdict.fix.node) == (Remedy.ROOM, 20.0, "n2")


def test_a_stage_that_runs_is_not_called_late_for_not_telling_how_far_it_is() -> None:
    demand = declared("a", "n1", size=100, ready_by=NOW + 12)
    first = plan([demand], [idle("n1")], NOW)
    [running] = carried_out([idle("n1")], first, state=State.STAGING)
    second = plan([demand], [running], NOW + 6, before=first)
    assert (second.verdicts["d-a"].outcome, second.verdicts["d-a"].ready_at) == (Outcome.ON_TIME, NOW + 10)
    third = plan(
        [demand, waiting("b", "n1", size=0), bound("c", "n1", size=30)],
        [dataclasses.replace(running, budget_bytes=500)],
        NOW + 6,
        before=second,
    )
    assert third.verdicts["d-a"].ready_at == NOW + 13  # put off by what goes before it
    assert third.verdicts["d-a"].reason is Reason.LINK_BUSY
    lost = plan([demand], [running], NOW + 11, before=third)
    assert lost.verdicts["d-a"].outcome is Outcome.LATE


def test_two_windows_that_do_not_meet_share_the_room_of_one() -> None:
    day = declared("day", "n1", size=80, ready_by=NOW + 100, until=NOW + 200)
    night = declared("night", "n1", size=80, ready_by=NOW + 300, until=NOW + 400)
    made = plan([day, night], [idle("n1")], NOW)
    assert {one.outcome for one in made.verdicts.values()} == {Outcome.ON_TIME}
    assert (shown(made)["n1"], list(told(made))) == ({"day": STAGE}, ["night"])
    both = dataclasses.replace(night, ready_by=NOW + 150)
    assert plan([day, both], [idle("n1")], NOW).verdicts["d-night"].reason is Reason.NODE_FULL


def test_what_is_warm_for_a_window_to_come_stays_before_what_merely_runs() -> None:
    nodes = [full("n1", 100, "soon", "other"), node("n2", 100, "other", "soon")]
    demands = [declared("soon", "n1", size=60, ready_by=NOW + 3600), standing("other", "n1", "n2", size=60)]
    assert shown(plan(demands, nodes, NOW))["n1"] == {"soon": STAGE}


def test_a_window_beyond_the_horizon_is_judged_and_nothing_is_staged() -> None:
    demand = declared("a", "n1", ready_by=NOW + 10 * 86_400)
    made = plan([demand], [idle("n1")], NOW)
    assert shown(made) == {"n1": {}}
    assert made.verdicts["d-a"].outcome is Outcome.ON_TIME
    assert made.again_at == NOW + 9 * 86_400


def test_a_window_that_is_over_wants_nothing_and_says_so() -> None:
    made = plan([declared("a", "n1", ready_by=NOW - 100, until=NOW)], [idle("n1", 100, "a")], NOW)
    assert (shown(made), made.verdicts["d-a"].reason) == ({"n1": {}}, Reason.OVER)


def test_a_node_that_leaves_is_staged_on_no_more_and_its_copy_comes_to_another() -> None:
    leaving = dataclasses.replace(idle("n1", 100, "a"), is_leaving=True)
    made = plan([declared("a", "n1", "n2", ready_by=NOW + 60)], [leaving, idle("n2")], NOW)
    assert shown(made)["n2"] == {"a": STAGE}


def test_a_follow_on_takes_only_what_is_free() -> None:
    follow = Demand("f-a", "a", 30, "team", Trust.FOLLOW_ON, {"n1": 1, "n2": 1}, frozenset({"n1", "n2"}))
    assert shown(plan([follow], [full("n1"), full("n2")], NOW)) == {"n1": {}, "n2": {}}
    assert shown(plan([follow], [full("n1"), idle("n2")], NOW)) == {"n1": {}, "n2": {"a": STAGE}}


def test_what_all_origins_give_is_shared_between_namespaces_and_told_in_the_verdict() -> None:
    nodes = [idle(f"n{number}", 1000) for number in range(6)]
    many = [
        dataclasses.replace(declared(f"a{number}", f"n{number}", size=100, ready_by=NOW + 20), namespace="greedy")
        for number in range(5)
    ]
    one = dataclasses.replace(declared("z", "n5", size=100, ready_by=NOW + 20), namespace="small")
    made = plan([*many, one], nodes, NOW, rules=Rules(origin_bytes_per_s=20.0, guard_s=0.0))
    begun = {artifact for said in shown(made).values() for artifact in said}
    assert begun == {"a0", "z"}  # as many as the origins feed, each namespace its turn
    assert made.verdicts["d-z"].outcome is Outcome.ON_TIME
    late = [verdict for verdict in made.verdicts.values() if verdict.reason is Reason.ORIGIN_BUSY]
    assert late
    assert all(verdict.fix is not None and verdict.fix.remedy is Remedy.ORIGIN_RATE for verdict in late)


def test_one_namespace_with_endless_demand_is_cut_and_others_are_not() -> None:
    many = [dataclasses.replace(declared(f"a{number}", "n1", size=1), id=f"a{number}") for number in range(50)]
    other = dataclasses.replace(declared("b", "n1", size=1), namespace="other")
    made = plan([*many, other], [idle("n1")], NOW, rules=Rules(per_namespace_max=10))
    assert sum(verdict.reason is Reason.TOO_MANY for verdict in made.verdicts.values()) == 40
    assert made.verdicts["d-b"].outcome is not Outcome.IMPOSSIBLE


def test_walls_count_windows_only_while_they_last() -> None:
    first = declared("a", "n1", size=60, ready_by=NOW + 100, until=NOW + 200)
    second = declared("b", "n1", size=60, ready_by=NOW + 900, until=NOW + 950)
    walls = {"team": Wall(bytes=100)}
    made = plan([first, second], [idle("n1", 500)], NOW, walls=walls)
    assert {one.outcome for one in made.verdicts.values()} == {Outcome.ON_TIME}
    both = dataclasses.replace(second, ready_by=NOW + 150)
    verdict = plan([first, both], [idle("n1", 500)], NOW, walls=walls).verdicts["d-b"]
    assert (verdict.reason, verdict.fix and verdict.fix.remedy) == (Reason.NAMESPACE_BYTES, Remedy.QUOTA)


def test_pinned_bytes_bound_what_is_declared_and_nothing_that_a_pod_uses() -> None:
    walls = {"team": Wall(pinned=100)}
    used = dataclasses.replace(declared("a", "n1", size=60), trust=Trust.WAITING, id="w-a")
    kept = declared("a", "n1", size=60, until=NOW + 200)
    first = declared("b", "n1", size=60, ready_by=NOW + 100, until=NOW + 200)
    second = declared("c", "n1", size=60, ready_by=NOW + 150, until=NOW + 200)
    made = plan([used, kept, first, second], [idle("n1", 500)], NOW, walls=walls)
    assert {name for name, verdict in made.verdicts.items() if verdict.outcome is Outcome.IMPOSSIBLE} == {"d-c"}
    refused = made.verdicts["d-c"]
    assert (refused.outcome, refused.reason) == (Outcome.IMPOSSIBLE, Reason.NAMESPACE_PINNED)
    assert refused.fix is not None
    assert refused.fix.remedy is Remedy.QUOTA


def test_what_was_meant_to_go_to_a_node_stays_meant_for_it() -> None:
    demand = declared("a", "n1", "n2", ready_by=NOW + 3600)
    first = plan([demand], [full("n1", 100), full("n2", 200)], NOW)
    assert list(told(first, "n2")) == ["a"]
    moved = [full("n1", 900), full("n2", 200)]
    assert list(told(plan([demand], moved, NOW, before=first), "n2")) == ["a"]
    assert list(told(plan([demand], moved, NOW), "n1")) == ["a"]


@given(worlds(), st.floats(0, 1))
def test_until_it_says_when_a_plan_says_the_same(world: World, share: float) -> None:
    made = plan(world.demands, world.nodes, NOW, walls=world.walls)
    assert made.again_at is None or made.again_at > NOW
    moment = NOW + share * 0.999 * ((made.again_at or NOW + 1000.0) - NOW)
    again = plan(world.demands, world.nodes, moment, walls=world.walls)
    assert {name: one.assignments for name, one in again.nodes.items()} == {
        name: one.assignments for name, one in made.nodes.items()
    }


@given(worlds())
def test_nothing_is_both_told_and_kept_for_later_and_later_is_never_now(world: World) -> None:
    for said in plan(world.demands, world.nodes, NOW, walls=world.walls).nodes.values():
        assert not {one.artifact for one in said.assignments} & {one.artifact for one in said.later}
        assert all(one.not_before is not None and one.not_before > NOW for one in said.later)
        assert all(one.not_before is None for one in said.assignments)


_SIZES = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 60)), min_size=1, max_size=6)


@given(_SIZES, st.floats(0, 100), st.floats(0, 1000))
def test_with_one_link_and_no_eviction_more_notice_never_makes_it_worse(
    wanted: list[tuple[int, int]], least: float, more: float
) -> None:
    def latest(notice: float) -> float:
        demands = [
            dataclasses.replace(declared(f"a{number}", "n1", size=size, ready_by=NOW + gap), id=f"a{number}")
            for number, (size, gap) in enumerate(wanted)
        ]
        made = plan(demands, [idle("n1", 10_000)], NOW - notice, rules=dataclasses.replace(STRICT, slack=1.3))
        return max(verdict.late_by_s or 0.0 for verdict in made.verdicts.values())

    assert latest(least + more) <= latest(least) + 1e-6


_EDGES = st.integers(0, 12).map(float)
_SPANS = st.builds(Span, st.just(-math.inf) | _EDGES, st.just(math.inf) | _EDGES).filter(lambda one: one.ends > one.starts)


@given(st.lists(st.tuples(st.integers(1, 9), _SPANS), max_size=8), _SPANS)
def test_the_peak_of_a_room_is_the_most_of_any_moment(taken: list[tuple[int, Span]], span: Span) -> None:
    room = Room(100)
    for size, one in taken:
        room.take(size, one)
    moments = [-1.0, *(number / 2 for number in range(27))]
    inside = [moment for moment in moments if span.starts <= moment < span.ends]
    level = [sum(size for size, one in taken if one.starts <= moment < one.ends) for moment in inside]
    assert room.peak_bytes(span) == max(level)
    assert room.now_bytes == sum(size for size, one in taken if one.starts == -math.inf)


@given(st.lists(_SPANS, max_size=5), _SPANS)
def test_what_is_uncovered_is_what_no_span_covers(spans: list[Span], wanted: Span) -> None:
    left = uncovered(spans, wanted)
    for number in range(-2, 27):
        moment = number / 2
        is_in = any(one.starts <= moment < one.ends for one in left)
        assert is_in == (wanted.starts <= moment < wanted.ends and not any(one.starts <= moment < one.ends for one in spans))
    assert uncovered([OPEN], wanted) == []


_WINDOWS = st.lists(st.builds(RateWindow, _EDGES, _EDGES, st.sampled_from([0.0, 1.0, 5.0, 50.0])), max_size=3)


@example([RateWindow(0.0, 4.0, 0.0)], 1, 1.0)  # what fits exactly beside a window in which nothing goes
@example([RateWindow(4.1, 9.0, 0.0)], 1, 4.0)
@given(_WINDOWS, st.integers(0, 200), st.floats(-5, 20))
def test_a_link_goes_back_the_way_it_came(windows: list[RateWindow], size: int, starts: float) -> None:
    link = Link(10.0, windows)
    ends = link.ends(starts, size)
    begun = link.starts(ends, size)
    assert begun >= starts - 1e-6  # the latest moment that still does
    assert link.ends(begun, size) == pytest.approx(ends)
    assert ends >= starts + size / 10.0 - 1e-6
