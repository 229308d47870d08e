"""What schedules say of themselves: before, at and after their windows; and what is said of them when they will be late."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass, field
from typing import cast

import msgspec
import pytest
from planning.cluster import Cluster, running, until
from planning.objects import (
    OURS,
    Mirrored,
    artifact,
    cron_job,
    deployment,
    digest,
    head,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    schedule,
    staged_model,
    template,
)

from prestage.api.conditions import find
from prestage.api.nodes import EntryType, ErrorClass
from prestage.api.policies import StorePool
from prestage.api.reading import read, written
from prestage.api.schedules import PastWindow, StagingSchedule, StagingScheduleStatus
from prestage.api.values import ConditionStatus
from prestage.control.demand.collecting import Collected, Collector
from prestage.control.demand.records import Line, Question
from prestage.control.demand.resolving import Failure
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.explaining import Complaint, complaints
from prestage.control.planning.lateness import remedy
from prestage.control.planning.metrics import Meters, Tally
from prestage.control.planning.outcomes import Key, Outcomes, Settled
from prestage.control.planning.schedules import dues_by_uid, schedule_status, view_of
from prestage.control.planning.states import Caches, States
from prestage.control.planning.statuses import pool_status, spreads
from prestage.kube.ports import Object
from prestage.kube.resources import EVENTS, NODE_CACHES, NODES, PODS, STAGING_SCHEDULES, STORE_POOLS
from prestage.planner.demands import ToldBy
from prestage.planner.plan import plan
from prestage.planner.plans import Fix, Remedy

NOW = datetime.datetime(2026, 11, 26, 7, 0, tzinfo=datetime.UTC).timestamp()
EIGHT = NOW + 3600.0
EVERY_DAY = {"name": "day", "readySchedule": "0 8 * * *", "duration": "1h"}
RECORD = line("llama-uid", "1", "model", "ref:llama")
COLD = node_cache("n1", originRateP10="10")


def past(begins: float) -> PastWindow:
    """One that nothing is known of but its deadline."""
    return PastWindow(ready_by=when(begins))


def when(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


@dataclass
class Watch:
    """One schedule over time, its status carried on as the API server would."""

    seen: Object = field(default_factory=lambda: schedule("s", EVERY_DAY))
    size: int = 1000
    collector: Collector = field(default_factory=Collector)
    outcomes: Outcomes = field(default_factory=Outcomes)
    settled: list[Settled] = field(default_factory=list)
    status: StagingScheduleStatus | None = None
    posted: Posted = field(default_factory=Posted)

    def look(self, now: float, *objects: Object, failures: dict[Line, Failure] | None = None) -> StagingScheduleStatus:
        """The next status. Without objects: one cold node, its model known."""
        around = objects or (COLD,)
        mirrors = Mirrored(namespace(), node("n1"), staged_model(), artifact("a", RECORD, size=self.size), self.seen, *around)
        return self.of(mirrors, now, failures or {})

    def of(self, mirrors: Mirrored, now: float, failures: dict[Line, Failure]) -> StagingScheduleStatus:
        collected = self.collector.collect(mirrors, now=now)
        nodes = States().of(mirrors[NODES], Caches().look(mirrors[NODE_CACHES]), mirrors[STORE_POOLS], {}, now)
        made = plan(collected.demands, nodes, now)
        self.posted = Posted(collected, tuple(nodes), made, failures)
        self.settled += self.outcomes.look(collected, made, now)
        known = read(StagingSchedule, self.seen)
        known = msgspec.structs.replace(known, status=self.status)
        [declaration] = [one for one in collected.declarations if one.source is ToldBy.STAGING_SCHEDULE]
        dues = dues_by_uid(collected.dues.values()).get("s-uid", [])
        view = view_of(self.posted, spreads(made, nodes), self.outcomes)
        self.status = schedule_status(known, declaration, dues, view, when(now))
        return self.status

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason."""
        found = find(self.status.conditions if self.status else None, kind)
        assert found is not None
        return str(found.status), found.reason


def test_ahead_of_its_window_a_schedule_says_when_it_starts_and_when_it_will_be_there() -> None:
    watch = Watch()
    status = watch.look(NOW)
    assert status.next is not None
    assert (status.next.window, status.next.ready_by, status.next.late_by, status.next.message) == ("day", when(EIGHT), "0s", "")
    assert status.next.predicted_ready_at is not None
    assert status.next.predicted_ready_at <= when(EIGHT)
    assert [watch.condition(kind) for kind in ("Resolved", "Feasible", "OnTime")] == [
        ("True", "Resolved"),
        ("True", "Feasible"),
        ("True", "OnTime"),
    ]
    assert watch.condition("Ready") == ("True", "Scheduled")


def test_nothing_new_is_nothing_written_though_time_goes_on() -> None:
    watch = Watch()
    watch.look(NOW, node_cache("n1", "a"))
    first = watch.look(NOW + 1, node_cache("n1", "a"))
    assert watch.look(NOW + 600, node_cache("n1", "a")) == first


def test_a_window_that_was_warm_in_time_enters_history_so_and_its_use_is_told() -> None:
    watch = Watch()
    watch.look(NOW)
    watch.look(NOW + 60, node_cache("n1", "a"))
    watch.look(EIGHT + 1, node_cache("n1", "a"))
    mounted = pod("p1", on="n1", phase="Running", made=template(ref="hf://org/model@main"), uid="p1-uid")
    seen = artifact("a", RECORD, line("p1-uid", "-"), size=1000)
    mirrors = Mirrored(namespace(), node("n1"), staged_model(), seen, mounted, watch.seen, node_cache("n1", "a"))
    status = watch.of(mirrors, EIGHT + 2, {})
    assert status.history is not None
    [entry] = status.history
    assert (entry.ready_by, entry.ready_at, entry.late_by, entry.used) == (when(EIGHT), when(NOW + 60), "0s", True)
    assert [one.late_by_s for one in watch.settled] == [0.0]
    assert status.next is not None
    assert status.next.ready_by == when(EIGHT + 86400)


def test_one_that_comes_late_says_so_before_it_is_and_by_how_much_afterwards() -> None:
    watch = Watch(size=36_080)  # an hour and eight seconds at the measured rate
    status = watch.look(NOW)
    assert status.next is not None
    assert status.next.late_by is not None
    assert 5 <= int(status.next.late_by.rstrip("s")) <= 20
    assert "because 36.1 kB take longer than what is left" in status.next.message
    assert watch.condition("OnTime") == ("False", "TooSoon")
    assert watch.condition("Ready")[0] == "False"
    assert watch.look(EIGHT + 3).history == [past(EIGHT)]
    assert watch.condition("Ready")[0] == "False"
    late = watch.look(EIGHT + 8, node_cache("n1", "a"))
    assert late.history is not None
    assert (late.history[0].ready_at, late.history[0].late_by) == (when(EIGHT + 8), "8s")
    assert [one.late_by_s for one in watch.settled] == [8.0]
    assert watch.condition("Ready") == ("True", "Warm")


def test_one_that_never_came_is_missed_and_one_edited_away_has_no_outcome() -> None:
    watch = Watch(size=10**9)
    watch.look(NOW)
    watch.look(EIGHT + 10)
    status = watch.look(EIGHT + 3601)
    assert [one.late_by_s for one in watch.settled] == [None]
    assert status.history == [past(EIGHT)]
    moved = Watch()
    moved.look(NOW)
    moved.seen = schedule("s", {**EVERY_DAY, "readySchedule": "0 9 * * *"})
    moved.seen = {**moved.seen, "metadata": {**cast("dict[str, object]", moved.seen["metadata"]), "resourceVersion": "2"}}
    moved.look(NOW + 1)
    moved.look(EIGHT + 1)
    assert moved.settled == []


def test_history_has_the_last_ten_and_survives_a_planner_that_begins_anew() -> None:
    watch = Watch()
    for day in range(12):
        watch.collector, watch.outcomes = Collector(), Outcomes()
        watch.look(EIGHT + day * 86400 - 30, node_cache("n1", "a"))
        watch.look(EIGHT + day * 86400 + 30, node_cache("n1", "a"))
    assert watch.status is not None
    assert watch.status.history is not None
    assert [one.ready_by for one in watch.status.history] == [when(EIGHT + day * 86400) for day in range(11, 1, -1)]
    assert {one.late_by for one in watch.status.history} == {"0s"}


def test_a_planner_that_was_away_when_a_window_began_does_not_call_it_late() -> None:
    watch = Watch()
    watch.look(EIGHT - 60, node_cache("n1", "a"))
    watch.collector, watch.outcomes = Collector(), Outcomes()
    status = watch.look(EIGHT + 60, node_cache("n1", "a"))
    assert status.history is not None
    assert (status.history[0].ready_at, status.history[0].late_by) == (when(EIGHT - 60), "0s")
    cold = Watch()
    cold.look(EIGHT - 60)
    cold.collector, cold.outcomes = Collector(), Outcomes()
    cold.look(EIGHT + 60)
    late = cold.look(EIGHT + 90, node_cache("n1", "a"))
    assert late.history is not None
    assert late.history[0].late_by == "90s"


def test_a_window_that_began_before_its_schedule_was_made_is_no_late_one() -> None:
    seen = schedule("s", EVERY_DAY)
    created = {**cast("dict[str, object]", seen["metadata"]), "creationTimestamp": when(EIGHT + 60).isoformat()}
    watch = Watch(seen={**seen, "metadata": created})
    assert watch.look(EIGHT + 61).history is None
    assert watch.look(EIGHT + 120, node_cache("n1", "a")).history is None
    assert watch.settled == []


@pytest.mark.parametrize(
    ("spec", "condition", "reason"),
    [
        ({"suspend": True}, "Ready", "Suspended"),
        ({"nodes": {"selector": {"matchLabels": {"no": "such"}}}}, "Feasible", "NoNode"),
        ({"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gone"}}, "Feasible", "NoTarget"),
        ({"capacity": {"type": "CapacityBuffer"}}, "Ready", "NoShape"),
        ({"priorityClassName": "none"}, "Ready", "NoPriorityClass"),
    ],
)
def test_what_is_wrong_is_a_reason_of_its_own_and_never_ready(spec: dict[str, object], condition: str, reason: str) -> None:
    made = schedule("s", EVERY_DAY)
    watch = Watch(seen={**made, "spec": {**cast("dict[str, object]", made["spec"]), **spec}})
    status = watch.look(NOW)
    assert watch.condition(condition) == ("False", reason)
    assert watch.condition("Ready")[0] == "False"
    assert (
        status == read(StagingSchedule, written(msgspec.structs.replace(read(StagingSchedule, watch.seen), status=status))).status
    )


def test_bad_windows_and_models_that_are_refused_stand_in_the_conditions() -> None:
    bad = Watch(seen=schedule("s", EVERY_DAY, {"name": "x", "readySchedule": "0 8 31 2 *", "duration": "1h"}))
    bad.look(NOW)
    assert bad.condition("Ready") == ("False", "BadWindow")
    refused = Watch()
    failure = Failure(Question("team", RECORD), ErrorClass.DENIED, "NoToken", "no", "look at the token", 1, 0.0)
    mirrors = Mirrored(namespace(), node("n1"), staged_model(), refused.seen, COLD)
    refused.of(mirrors, NOW, {RECORD: failure})
    assert refused.condition("Resolved") == ("False", "NoToken")
    [one] = [one for one in complaints(refused.posted, {}, refused.outcomes) if one.reason == "NotResolved"]
    assert one.subject.name == "s"


def test_partly_warm_is_not_ready() -> None:
    seen = schedule("s", {"name": "always"})
    watch = Watch(seen=seen)
    two = node("n2")
    watch.look(NOW, two, node_cache("n1", "a"), node_cache("n2"))
    assert watch.condition("Ready") == ("False", "PartlyWarm")
    watch.look(NOW, two, node_cache("n1", "a"), node_cache("n2", "a"))
    assert watch.condition("Ready") == ("True", "Warm")


def test_a_late_cron_job_and_deployment_are_told_by_an_event_about_them_with_cause_and_remedy() -> None:
    job = cron_job(schedule="1 7 * * *", made=template(ref="ref:llama"))
    web = deployment(said={"ready-schedule": "1 7 * * *", "duration": "1h"})
    seen = artifact("b", line("nightly-uid", "run", ref="ref:llama"), line(), size=10_000)
    watch = Watch()
    mirrors = Mirrored(namespace(), node("n1"), job, web, replica_set(), seen, watch.seen, COLD)
    watch.of(mirrors, NOW, {})
    said = [one for one in complaints(watch.posted, {}, watch.outcomes) if one.reason == "Late"]
    assert sorted(one.subject.resource.kind for one in said) == ["CronJob", "Deployment"]
    for one in said:
        assert "of 2026-11-26T07:01:00Z: model llama will be late by" in one.note
        assert "because 10 kB take longer than what is left" in one.note


def test_a_lateness_is_said_again_when_it_doubled() -> None:
    def marks(size: int) -> set[str]:
        watch = Watch(size=size)
        watch.look(NOW)
        return {one.mark for one in complaints(watch.posted, {}, watch.outcomes) if one.reason == "Late"}

    near, same, far = marks(36_400), marks(36_410), marks(40_000)
    assert near == same != far
    assert near


def test_a_problem_is_an_event_on_its_object_unless_it_is_meant() -> None:
    web = deployment(said={"ready-schedule": "0 8 30 2 *", "duration": "1h"})
    watch = Watch(seen=schedule("s", EVERY_DAY, suspend=True))
    watch.of(Mirrored(namespace(), node("n1"), staged_model(), web, replica_set(), watch.seen), NOW, {})
    found: list[Complaint] = complaints(watch.posted, {}, watch.outcomes)
    assert [(one.subject.name, one.reason) for one in found] == [("web", "BadAnnotation")]
    assert "names a day that none of its months has" in found[0].note


@pytest.mark.parametrize("kind", list(Remedy))
def test_every_remedy_has_words_with_and_without_an_amount(kind: Remedy) -> None:
    assert remedy(Fix(kind))
    assert remedy(Fix(kind, 3e9, "n1"))
    assert "n1" not in remedy(Fix(kind, 3e9, "n1"))
    assert "StorePool" not in remedy(Fix(kind, 3e9, "n1"), EntryType.IMAGE), "an image has another room"


def test_outcomes_are_counted_by_source() -> None:
    meters = Meters(Board(), Tally())
    for late in (0.0, 8.0, None):
        meters.settled(Settled(Key("u", 1.0), ToldBy.CRON_JOB, late))
    for outcome in ("on_time", "late", "missed"):
        value = meters.registry.get_sample_value("prestage_windows_total", {"source": "CronJob", "outcome": outcome})
        assert value == 1.0
    assert meters.registry.get_sample_value("prestage_window_late_seconds_sum", {"source": "CronJob"}) == 8.0


def test_what_is_left_out_is_counted() -> None:
    board, tally = Board(), Tally(is_leading=True)
    board.post(Posted(Collected(cut={"s": 3}, unread=frozenset({"t"}))))
    assert Meters(board, tally).registry.get_sample_value("prestage_demands_left_out") == 4.0


def test_a_pools_windows_limit_its_nodes_rates_at_their_times() -> None:
    window = {"name": "office", "schedule": "0 9 * * *", "duration": "9h", "originBytesPerSecond": "5"}
    broken = {**window, "name": "never", "schedule": "0 9 30 2 *"}
    pool = {"apiVersion": OURS, "kind": "StorePool", "metadata": head("p", None)}
    mirrors = Mirrored(node("n1"), COLD, {**pool, "spec": {"nodeSelector": {}, "root": "/mnt/a", "windows": [window, broken]}})
    [state] = States().of(mirrors[NODES], Caches().look(mirrors[NODE_CACHES]), mirrors[STORE_POOLS], {}, NOW)
    assert [(one.begins, one.ends, one.rate_bytes_per_s) for one in state.rate_windows] == [(NOW + 7200, NOW + 11 * 3600, 5.0)]


def test_a_pool_with_a_window_that_never_opens_says_so() -> None:
    window = {"name": "never", "schedule": "0 9 30 2 *", "duration": "9h", "originBytesPerSecond": "5"}
    spec = {"nodeSelector": {}, "root": "/mnt/a", "windows": [window]}
    pool = read(StorePool, {"apiVersion": OURS, "kind": "StorePool", "metadata": head("p", None), "spec": spec})
    said = find(pool_status(pool, [{}], when(NOW)).conditions, "Ready")
    assert said is not None
    assert (said.status, said.reason) == (ConditionStatus.FALSE, "BadWindow")
    assert "window never is not heeded" in said.message


# the whole planner, with its own clock


def test_a_schedule_is_staged_before_its_time_and_a_suspended_one_keeps_what_is_warm() -> None:
    async def steps() -> None:
        cluster = Cluster()
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
        window = {"name": "launch", "readyBy": soon.isoformat(), "duration": "1h"}
        made = schedule("s", window)
        await cluster.put(namespace(), node("n1"), staged_model(), made)
        planner = cluster.planner()
        wanted = digest("ref:llama")

        async def status() -> dict[str, object]:
            found = await cluster.find(STAGING_SCHEDULES, "s", "team")
            return cast("dict[str, object]", found.get("status") or {}) if found is not None else {}

        async def history() -> object:
            return (await status()).get("history")

        async with running(planner):
            await cluster.report("n1")

            async def says(actions: dict[str, str]) -> bool:
                return await cluster.spec("n1") == actions

            await until(lambda: says({wanted: "Stage"}))
            assert datetime.datetime.now(datetime.UTC) < soon
            await cluster.report("n1", artifacts=[{"digest": wanted, "state": "Warm"}])
            await until(history)
            [entry] = cast("list[dict[str, object]]", await history())
            assert entry["lateBy"] == "0s"
            suspended = {**made, "spec": {**cast("dict[str, object]", made["spec"]), "suspend": True}}
            await cluster.put(suspended)
            await until(lambda: says({wanted: "Keep"}))

    asyncio.run(steps())


def test_one_that_will_be_late_is_an_event_before_it_is() -> None:
    async def steps() -> None:
        cluster = Cluster()
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
        cluster.broker.size_bytes = 100_000
        await cluster.put(
            namespace(),
            node("n1"),
            staged_model(),
            schedule("s", {"name": "launch", "readyBy": soon.isoformat(), "duration": "1h"}),
        )
        async with running(cluster.planner()):
            await cluster.report("n1", budget="1Mi", originRateP10="1000")

            async def told() -> list[Object]:
                return [one for one in (await cluster.api.page(EVENTS)).items if one["reason"] == "Late"]

            await until(told)
            [event] = await told()
            assert cast("dict[str, str]", event["regarding"])["kind"] == "StagingSchedule"
            assert datetime.datetime.now(datetime.UTC) < soon
        assert (await cluster.api.page(PODS)).items == ()

    asyncio.run(steps())
