"""The decision log: what is written down of a plan and of what became of it, bounded, and read again whatever lies there."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.worlds import NOW, WARM, bound, declared, node, standing, waiting

from prestage.api.nodes import Action, ErrorClass, State
from prestage.control.planning.decision_log import BYTES_MAX, changes_after, decisions_in, joined, packed, unpacked
from prestage.planner.changes import Changes
from prestage.planner.decisions import DECISIONS_MAX, NODES_MAX, Because, Decided, Decision, Decisions, grouped
from prestage.planner.demands import Demand, ToldBy
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import Rules, plan
from prestage.planner.plans import Plan

Short = tuple[str, str, tuple[str, ...], str, str]


class Leader:
    """Plans, writes down, and its nodes are told; what they report is the test's."""

    def __init__(self, *nodes: NodeState, changes: Changes | None = None) -> None:
        self.nodes = {one.name: one for one in nodes}
        self.changes, self.now = changes or Changes(), NOW
        self.last: Plan | None = None

    def step(self, *demands: Demand, **told_before: object) -> list[Short]:
        self.now += 10
        self.last = plan(demands, self.nodes.values(), self.now, rules=Rules(peers=False), before=self.last)
        found = self.changes.look(demands, list(self.nodes.values()), self.last, self.now, lambda name: f"Deployment/{name}")
        for name, made in self.last.nodes.items():
            told = {one.artifact: one for one in made.assignments}
            self.nodes[name] = dataclasses.replace(self.nodes[name], planned=told)
        return short(found)

    def report(self, name: str, **held: Held) -> None:
        self.nodes[name] = dataclasses.replace(self.nodes[name], held=held)


def short(found: Iterable[Decision]) -> list[Short]:
    return [(str(one.what), one.artifact, one.nodes, str(one.because), one.by) for one in found]


def test_a_bound_pod_is_told_from_its_first_sign_to_its_end_and_nothing_is_told_twice() -> None:
    leader = Leader(node("n1"))
    pod = bound("a", "n1")
    told, late = leader.step(pod)
    assert told == ("Stage", "a", ("n1",), "Pod", "Deployment/b-a-n1")
    assert late == ("Late", "a", ("n1",), "Staging", "Deployment/b-a-n1")
    assert leader.step(pod) == []
    leader.report("n1", a=Held(State.STAGING))
    assert leader.step(pod) == []
    leader.report("n1", a=WARM)
    assert leader.step(pod) == [("Warm", "a", ("n1",), "", "Deployment/b-a-n1")]
    assert leader.step(standing("a", "n1")) == [("Keep", "a", ("n1",), "Pod", "Deployment/s-a")]
    assert leader.step() == [("Release", "a", ("n1",), "NotWanted", "")]


def test_what_went_is_told_with_why() -> None:
    leader = Leader(node("n1", 100, "a"), node("n2", 100, "c"), node("n3", 100, "a"))
    stays = standing("a", "n3")
    assert [one[0] for one in leader.step(stays, bound("b", "n1", size=90))] == ["Stage", "Keep", "Late"]
    leader.report("n1", b=Held(State.STAGING))  # a made room
    leader.report("n2")  # let go of by hand
    leader.report("n3")  # its plan kept it
    found = leader.step(stays, bound("b", "n1", size=90))
    gone = {one[2]: one[3] for one in found if one[0] == "Gone"}
    assert gone == {("n1",): "Room", ("n2",): "Unplanned", ("n3",): "Lost"}
    del leader.nodes["n3"]
    assert ("Gone", "", ("n3",), "NodeGone", "") in leader.step(stays, bound("b", "n1", size=90))


def test_a_window_is_planned_told_late_once_and_told_to_begin() -> None:
    leader = Leader(node("n1", 100, "x", rate=1.0))
    day = declared("a", "n1", size=90, ready_by=NOW + 1000, until=NOW + 5000, source=ToldBy.STAGING_SCHEDULE)
    wanted = standing("x", "n1", size=60)
    found = leader.step(wanted, day)
    assert ("Keep", "x", ("n1",), "Pod", "Deployment/s-x") in found
    late = declared("b", "n1", size=80, ready_by=NOW + 30, until=NOW + 5000)
    found = leader.step(late)
    assert [one for one in found if one[0] == "Late"] == [("Late", "b", ("n1",), "TooSoon", "Deployment/d-b")]
    assert [one for one in leader.step(late) if one[0] == "Late"] == []


def test_what_begins_later_is_written_down_with_its_moment_again_when_it_is_another_and_when_it_is_taken_back() -> None:
    leader = Leader(dataclasses.replace(node("n1", 100, "x", rate=1.0), used_bytes=60))
    holds = bound("x", "n1", size=60, until=NOW + 9_000)

    def look(*windows: Demand) -> list[Decision]:
        leader.now += 10
        demands = (holds, *windows)
        made = plan(demands, leader.nodes.values(), leader.now, rules=Rules(peers=False))
        assert [one.artifact for one in made.nodes["n1"].later] == ["a"] * len(windows)
        return leader.changes.look(demands, list(leader.nodes.values()), made, leader.now, lambda name: name)

    day = declared("a", "n1", size=90, ready_by=NOW + 10_000, until=NOW + 20_000)
    [planned] = [one for one in look(day) if one.what is Decided.PLANNED]
    assert (planned.artifact, planned.ready_by, planned.by) == ("a", NOW + 10_000, "d-a")
    assert planned.begins is not None
    assert NOW < planned.begins < NOW + 10_000 - 90
    assert look(day) == []
    [moved] = look(dataclasses.replace(day, ready_by=NOW + 12_000))
    assert (moved.what, moved.ready_by) == (Decided.PLANNED, NOW + 12_000)
    assert [(str(one.what), one.artifact, str(one.because)) for one in look()] == [("Release", "a", "NotWanted")]


def test_a_failure_is_told_by_class_and_code_and_a_new_planner_repeats_nothing() -> None:
    leader, pod = Leader(node("n1"), node("n2", 100, "a")), bound("a", "n1")
    leader.step(pod)
    leader.report("n1", a=Held(State.FAILED, ErrorClass.DENIED, "NoCredentials"))
    found = leader.step(pod)
    assert ("Failed", "a", ("n1",), "Denied/NoCredentials", "Deployment/b-a-n1") in found
    follower = Leader(*leader.nodes.values())
    assert {one[0] for one in follower.step(pod)} <= {"Late"}, "what nodes were told is in their NodeCaches"


def test_what_went_while_nobody_looked_is_told_and_a_node_that_says_nothing_yet_lost_nothing() -> None:
    past = [Decision(NOW, Decided.WARM, one, ("n1", "n2")) for one in ("a", "b")]
    changes = changes_after(past)
    silent = node("n2", None)
    leader = Leader(node("n1", 100, "a"), silent, changes=changes)
    assert leader.step() == [("Gone", "b", ("n1",), "Unseen", "")]
    leader.nodes["n2"] = node("n2", 100, "a", "b")
    assert leader.step() == []
    leader.nodes["n2"] = dataclasses.replace(node("n2", None), held={})  # its NodeCache was made anew
    assert leader.step() == []
    leader.nodes["n2"] = node("n2", 100, "a")
    assert leader.step() == [("Gone", "b", ("n2",), "Unplanned", "")]


def test_what_came_while_nobody_looked_is_told_where_it_was_awaited_and_only_there() -> None:
    past = [Decision(NOW, Decided.STAGE, "a", ("n1", "n2")), Decision(NOW, Decided.STAGE, "b", ("n1",))]
    leader = Leader(node("n1", 100, "a", "c"), node("n2", 100), changes=changes_after(past))
    assert leader.step() == [("Warm", "a", ("n1",), "Unseen", "")]
    assert leader.step() == []


def test_the_same_of_many_nodes_is_one_decision_that_names_some() -> None:
    names = [f"n{number:03}" for number in range(NODES_MAX + 8)]
    leader = Leader(*(node(name) for name in names))
    [told] = [one for one in leader.step(bound("a", *names)) if one[0] == "Stage"]
    assert told[2] == tuple(names[:NODES_MAX])
    [made] = grouped(Decision(NOW, Decided.WARM, "a", (name,)) for name in names)
    assert (len(made.nodes), made.more) == (NODES_MAX, 8)


def test_the_log_is_bounded_and_the_loudest_namespace_loses_first() -> None:
    log = Decisions()
    for number in range(50):
        log.add(Decision(float(number), Decided.STAGE, "q", ("n",), namespace="quiet"))
    for number in range(10 * DECISIONS_MAX):
        log.add(Decision(100.0 + number, Decided.LATE, "l", namespace="loud"))
    assert len(log) == DECISIONS_MAX
    kept = list(log)
    assert sum(one.namespace == "quiet" for one in kept) == 50
    assert kept[-1].at == 99.0 + 10 * DECISIONS_MAX
    assert [one.at for one in kept] == sorted(one.at for one in kept)


def test_a_clock_that_is_set_back_does_not_change_what_came_last_and_two_logs_are_joined_without_doubles() -> None:
    first, second = Decision(2000.0, Decided.WARM, "a", ("n1",)), Decision(1000.0, Decided.GONE, "a", ("n1",))
    log = Decisions([first, second])
    assert list(log) == unpacked(packed(log)) == [first, second]
    assert changes_after(log).warm == {"n1": set()}
    third = Decision(1500.0, Decided.WARM, "b", ("n1",))
    assert list(joined([first, third], log)) == [first, third, second]


NAMES = st.text("abc/-é", max_size=12)
DECISIONS = st.builds(
    Decision,
    at=st.floats(0, 4e9),
    what=st.sampled_from(Decided),
    artifact=NAMES,
    nodes=st.lists(NAMES, max_size=4).map(tuple),
    more=st.integers(0, 9),
    because=st.sampled_from(Because).map(str) | NAMES,
    namespace=NAMES,
    by=NAMES,
    begins=st.none() | st.floats(0, 4e9),
    ready_by=st.none() | st.floats(0, 4e9),
    late_s=st.none() | st.floats(0, 1e6),
)


@given(st.lists(DECISIONS, max_size=20))
def test_what_was_written_is_read_again(decisions: Sequence[Decision]) -> None:
    log = Decisions(decisions)
    assert unpacked(packed(log)) == list(log)


@given(st.binary(max_size=300), st.lists(DECISIONS, max_size=3))
def test_whatever_lies_there_is_read_without_a_crash_and_costs_no_other_line(junk: bytes, decisions: list[Decision]) -> None:
    assert isinstance(unpacked(junk), list)
    assert isinstance(unpacked(zlib.compress(junk)), list)
    lines = [*map(msgspec.json.encode, decisions), junk.replace(b"\n", b" "), *map(msgspec.json.encode, decisions)]
    read = unpacked(zlib.compress(b"\n".join(lines)))
    assert read[: len(decisions)] == decisions
    assert len(read) >= 2 * len(decisions)


@given(
    st.recursive(st.none() | st.text(max_size=8), lambda inner: st.dictionaries(st.sampled_from(["binaryData", "log"]), inner))
)
def test_a_config_map_of_any_form_is_read_without_a_crash(seen: object) -> None:
    assert decisions_in(seen if isinstance(seen, dict) else {"binaryData": seen}) == []


def test_a_log_that_claims_to_be_endless_is_read_to_its_bound_and_a_large_one_is_written_within_its_own() -> None:
    assert unpacked(zlib.compress(b"\n" * (64 << 20))) == []
    log = Decisions()
    for number in range(DECISIONS_MAX):
        noise = zlib.compress(str(number).encode() * 3).hex() * 20
        log.add(Decision(float(number), Decided.STAGE, noise, tuple(f"{noise[:200]}{one}" for one in range(NODES_MAX))))
    data = packed(log)
    assert len(data) <= BYTES_MAX
    found = unpacked(data)
    assert found[-1].at == DECISIONS_MAX - 1
    assert len(found) > 50


ACTION = st.sampled_from([Action.STAGE, Action.KEEP])
STATES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([WARM, Held(State.STAGING), Held(State.PENDING)]))


@settings(max_examples=60)
@given(st.lists(st.tuples(STATES, STATES, st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd"))), max_size=6))
def test_a_log_of_any_history_says_last_what_is_so(
    history: list[tuple[dict[str, Held], dict[str, Held], set[str], set[str]]],
) -> None:
    """What the log says was warm last is what nodes reported last, and what it says they were told is what they were told."""
    leader = Leader(node("n1", 60), node("n2", 60))
    story = list[Short]()
    leader.step()
    for one, two, pods, queue in history:
        leader.report("n1", **one)
        leader.report("n2", **two)
        demands = [*(bound(name, "n1") for name in sorted(pods)), *(waiting(name, "n1", "n2") for name in sorted(queue))]
        story += leader.step(*demands)
    for name, state in leader.nodes.items():
        for artifact in "abcd":
            about = [one for one in story if one[1] == artifact and name in one[2]]
            seen = [one[0] for one in about if one[0] in ("Warm", "Gone")]
            if seen:
                assert (seen[-1] == "Warm") == state.is_warm(artifact) or artifact in state.held
            told = [one[0] for one in about if one[0] in ("Stage", "Keep", "Release")]
            if told:
                planned = state.planned.get(artifact)
                assert (told[-1] != "Release") == (planned is not None and planned.action is not Action.RELEASE)


@pytest.mark.parametrize(("limit", "held", "is_told"), [(512, 400, True), (384, 400, False), (384, 383, True)])
def test_what_is_not_named_any_more_is_gone_where_the_node_names_all_it_has(limit: int, held: int, is_told: bool) -> None:
    names = [f"a{number:03}" for number in range(held)]
    leader = Leader(dataclasses.replace(node("n1", 10**6, *names), entries_max=limit))
    leader.step()
    leader.report("n1", **dict.fromkeys(names[1:], WARM))
    assert any(one[0] == "Gone" for one in leader.step()) is is_told
