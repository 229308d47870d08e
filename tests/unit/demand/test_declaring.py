"""What is declared for later: which demand, of which windows, for which nodes; and what is wrong with it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.objects import (
    OURS,
    REF,
    Mirrored,
    artifact,
    controlled,
    cron_job,
    deployment,
    digest,
    head,
    line,
    namespace,
    node,
    pod,
    replica_set,
    schedule,
    staged_model,
    template,
)

from prestage.control.demand.collecting import Collected, Collector
from prestage.control.demand.declared import ALL_MAX, EACH_MAX, OBJECTS_MAX, share
from prestage.kube.ports import Object
from prestage.kube.resources import STAGING_SCHEDULES
from prestage.planner.demands import Demand, ToldBy, Trust

NOW = datetime.datetime(2026, 11, 26, 7, 0, tzinfo=datetime.UTC).timestamp()  # a Thursday
HOUR = 3600.0
EIGHT = NOW + HOUR
MODEL = artifact("a", line("llama-uid", "1", "model", "ref:llama"))
WEB = artifact("a", line())
OFFICE = {"ready-schedule": "0 8 * * 1-5", "duration": "10h"}


def collected(*objects: Object, now: float = NOW, collector: Collector | None = None) -> Collected:
    return (collector or Collector()).collect(Mirrored(namespace(), node("n1"), node("n2"), *objects), now=now)


def declared(found: Collected) -> list[Demand]:
    return sorted((one for one in found.demands if one.trust is Trust.DECLARED), key=lambda one: one.ready_by or 0)


def reasons(found: Collected) -> list[str]:
    return [problem.reason for one in found.declarations for problem in one.problems]


def office() -> tuple[Object, ...]:
    return deployment(size=0, said={**OFFICE, "replicas": "3"}), replica_set(replicas=0), WEB


# ready-schedule


def test_a_deployment_with_a_ready_schedule_is_wanted_at_its_windows_for_its_replicas() -> None:
    found = collected(*office())
    [coming] = declared(found)
    assert (coming.artifact, coming.ready_by, coming.until) == (digest("a"), EIGHT, EIGHT + 10 * HOUR)
    assert (coming.count, coming.source, coming.at, coming.feasible) == (
        3,
        ToldBy.READY_SCHEDULE,
        {"n1": 4, "n2": 4},
        frozenset({"n1", "n2"}),
    )
    assert found.changes_at == EIGHT


def test_within_a_window_both_it_and_the_next_one_are_wanted() -> None:
    found = declared(collected(*office(), now=EIGHT + 1))
    assert [one.ready_by for one in found] == [EIGHT, EIGHT + 24 * HOUR]


def test_the_zone_is_heeded_and_a_schedule_may_stand_on_the_template() -> None:
    said = template()
    annotations = cast("dict[str, str]", said["annotations"])
    annotations |= {
        "prestage.dev/ready-schedule": "0 9 * * *",
        "prestage.dev/time-zone": "Europe/Berlin",
        "prestage.dev/duration": "1h",
    }
    found = collected(deployment(made=said, size=2), replica_set(made=said), WEB)
    assert [(one.ready_by, one.count) for one in declared(found)] == [(EIGHT, 2)]


def test_the_revision_is_that_of_the_newest_replica_set_once_it_shows_the_models() -> None:
    old = replica_set("web-old", revision="old", replicas=0)
    numbered = {
        **old,
        "metadata": {**cast("dict[str, object]", old["metadata"]), "annotations": {"deployment.kubernetes.io/revision": "1"}},
    }
    newer = replica_set("web-new", revision="new", replicas=0, made=template(ref="hf://org/model@v2"))
    newer = {
        **newer,
        "metadata": {**cast("dict[str, object]", newer["metadata"]), "annotations": {"deployment.kubernetes.io/revision": "12"}},
    }
    said = {**OFFICE, "replicas": "1"}
    moved = deployment(size=0, made=template(ref="hf://org/model@v2"), said=said)
    found = collected(moved, numbered, newer)
    assert [question.line.hash for question in found.questions] == ["new"]
    behind = collected(moved, numbered)
    assert (behind.questions, reasons(behind)) == ((), ["NoTemplate"])


def test_a_stateful_set_is_wanted_in_its_update_revision_once_that_is_of_this_generation() -> None:
    def stateful_set(observed: int) -> Object:
        made = deployment("db", size=2, said=OFFICE)
        metadata = {**cast("dict[str, object]", made["metadata"]), "generation": 4}
        status = {"updateRevision": "db-7", "observedGeneration": observed}
        return {**made, "kind": "StatefulSet", "metadata": metadata, "status": status}

    current, behind = collected(stateful_set(4)), collected(stateful_set(3))
    assert {one.line.template for one in current.questions} == {line("db-uid", "db-7").template}
    assert (reasons(current), reasons(behind)) == ([], ["NoTemplate"])


def test_what_its_pods_hold_counts_as_place_for_it() -> None:
    full = [
        pod(f"p{number}", owner=("ReplicaSet", "web-abc"), on="n1", made=template(gpus=4), phase="Running") for number in range(1)
    ]
    others = pod("other", on="n2", made={**template(gpus=4), "annotations": {}}, phase="Running")
    made = template(gpus=4)
    found = collected(deployment(made=made, size=1, said=OFFICE), replica_set(made=made), WEB, *full, others)
    [coming] = declared(found)
    assert (coming.at, coming.feasible) == ({"n1": 1}, frozenset({"n1", "n2"}))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({**OFFICE, "ready-schedule": "0 8 30 2 *"}, "BadAnnotation"),
        ({**OFFICE, "time-zone": "Europe/Atlantis"}, "BadAnnotation"),
        ({"ready-schedule": "0 8 * * *"}, "BadAnnotation"),
        ({**OFFICE, "replicas": "0"}, "NoReplicas"),
    ],
)
def test_what_is_wrong_with_a_ready_schedule_is_said(said: dict[str, str], reason: str) -> None:
    found = collected(deployment(said=said), replica_set(), WEB)
    assert (reasons(found), declared(found)) == ([reason], [])


# StagingSchedules


def test_a_staging_schedule_is_wanted_on_all_nodes_that_match_or_so_many_of_them() -> None:
    h100 = node("n3", gpu="h100")
    selector = {"selector": {"matchLabels": {"gpu": "h100"}}}
    [one] = declared(collected(staged_model(), MODEL, h100, schedule(nodes=selector)))
    assert (one.at, one.copies, one.ready_by, one.until, one.source) == ({"n3": 1}, 1, None, None, ToldBy.STAGING_SCHEDULE)
    [two] = declared(collected(staged_model(), MODEL, h100, schedule(nodes={"selector": {}, "count": 2})))
    assert (set(two.at), two.copies) == ({"n1", "n2", "n3"}, 2)


def test_a_new_node_that_matches_is_wanted_at_once_and_one_that_leaves_no_more() -> None:
    collector = Collector()
    before = declared(collected(staged_model(), MODEL, schedule(), collector=collector))
    cordoned = {**node("n3"), "spec": {"unschedulable": True}}
    after = declared(collected(staged_model(), MODEL, schedule(), node("n4"), cordoned, collector=collector))
    assert [set(one.at) for one in (*before, *after)] == [{"n1", "n2"}, {"n1", "n2", "n4"}]


def test_windows_by_cron_once_and_for_a_target() -> None:
    once = {"name": "launch", "readyBy": "2026-11-26T09:00:00Z", "duration": "1h", "replicas": 5}
    daily = {"name": "day", "readySchedule": "0 8 * * *", "duration": "1h"}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    found = collected(
        staged_model(),
        MODEL,
        deployment(size=2),
        replica_set(),
        schedule("s", once, daily, targetRef=target, nodes={"selector": {}}),
    )
    assert [(one.ready_by, one.count, one.copies) for one in declared(found)] == [
        (EIGHT, 2, None),
        (EIGHT + HOUR, 5, None),
    ]


def test_a_suspended_schedule_keeps_what_is_warm_and_begins_nothing() -> None:
    found = collected(staged_model(), MODEL, schedule(suspend=True))
    assert [(one.trust, one.artifact) for one in found.demands] == [(Trust.STANDING, digest("a"))]
    assert reasons(found) == ["Suspended"]


def test_of_two_schedules_that_contradict_the_one_that_wants_it_counts() -> None:
    found = collected(staged_model(), MODEL, schedule("no", suspend=True), schedule("yes"))
    assert sorted((one.trust, one.artifact) for one in found.demands) == [
        (Trust.DECLARED, digest("a")),
        (Trust.STANDING, digest("a")),
    ]


def test_a_schedule_whose_windows_nobody_used_counts_for_less() -> None:
    def chance(*used: bool) -> float:
        history = [{"readyBy": "2026-11-26T08:00:00Z", "used": one} for one in used]
        [one] = declared(collected(staged_model(), MODEL, {**schedule(), "status": {"history": history}}))
        return one.chance

    assert chance() == chance(False) == 1.0  # the newest may be used yet
    assert chance(False, *[True] * 9) == pytest.approx(17 / 19)
    assert chance(False, *[False] * 9) == pytest.approx(8 / 19)


def test_priorities_are_those_of_priority_classes() -> None:
    serving = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": head("serving", None), "value": 700}
    default = {**serving, "metadata": head("usual", None), "value": 5, "globalDefault": True}
    objects = staged_model(), MODEL, serving, default
    [one] = declared(collected(*objects, schedule(priorityClassName="serving")))
    [two] = declared(collected(*objects, schedule()))
    missing = collected(*objects, schedule(priorityClassName="none"))
    assert (one.priority, two.priority, reasons(missing)) == (700, 5, ["NoPriorityClass"])


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([schedule()], "NoSuchModel"),
        ([staged_model(), schedule("s", {"name": "d", "readySchedule": "0 8 30 2 *", "duration": "1h"})], "BadWindow"),
        (
            [
                staged_model(),
                schedule("s", {"name": "d", "readySchedule": "0 8 * * *", "timeZone": "Mars/Base", "duration": "1h"}),
            ],
            "BadWindow",
        ),
        ([staged_model(), schedule("s", {"name": "d", "readySchedule": "0 8 * * *", "duration": "5s"})], "BadWindow"),
        ([staged_model(), schedule("s", {"name": "d", "readySchedule": "0 8 * * *", "duration": "999999h"})], "BadWindow"),
        ([staged_model(), schedule("s", {"name": "d", "readyBy": "2026-12-01T08:00:00Z", "duration": "0s"})], "BadWindow"),
        ([staged_model(), schedule("s", {"name": "d", "readyBy": "2026-12-01T08:00:00Z", "duration": "8785h"})], "BadWindow"),
        ([staged_model(), schedule("s", {"name": "d", "readySchedule": "0 8 * * *", "duration": "30h"})], "AlwaysOpen"),
        ([staged_model(), schedule(nodes={"selector": {"matchLabels": {"no": "such"}}})], "NoNode"),
        ([staged_model(), schedule(targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "gone"})], "NoTarget"),
        ([staged_model(), schedule(capacity={"type": "CapacityBuffer"})], "NoShape"),
        ([staged_model(), schedule(windows="never")], "Invalid"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_a_problem_of_its_own(objects: list[Object], reason: str) -> None:
    assert reasons(collected(MODEL, *objects)) == [reason]


def test_an_image_is_declared_beside_the_models() -> None:
    made = schedule()
    spec = cast("dict[str, list[object]]", made["spec"])
    spec["artifacts"].append({"name": "engine", "type": "Image", "image": "registry.example/vllm:1"})
    found = collected(staged_model(), MODEL, made)
    assert (reasons(found), len(declared(found))) == ([], 1)
    assert [one.line.ref for one in found.questions] == ["oci://registry.example/vllm:1"], "it is not resolved yet"


def test_a_window_beyond_the_horizon_is_no_demand_yet_and_looked_at_when_it_comes_near() -> None:
    year = {"name": "y", "readySchedule": "0 0 1 6 *", "duration": "1h"}
    found = collected(staged_model(), MODEL, schedule("s", year))
    first = datetime.datetime(2027, 6, 1, tzinfo=datetime.UTC).timestamp()
    assert declared(found) == []
    assert found.changes_at == first - 7 * 24 * HOUR
    assert [one.ready_by for one in declared(collected(staged_model(), MODEL, schedule("s", year), now=found.changes_at))] == [
        first
    ]


def test_a_schedule_edited_or_a_clock_set_back_is_looked_at_anew() -> None:
    collector = Collector()
    eight = {"name": "d", "readySchedule": "0 8 * * *", "duration": "1h"}
    objects = staged_model(), MODEL
    assert [one.ready_by for one in declared(collected(*objects, schedule("s", eight), collector=collector))] == [EIGHT]
    edited = schedule("s", {**eight, "readySchedule": "0 9 * * *"})
    edited = {**edited, "metadata": {**cast("dict[str, object]", edited["metadata"]), "resourceVersion": "2"}}
    assert [one.ready_by for one in declared(collected(*objects, edited, collector=collector))] == [EIGHT + HOUR]
    back = declared(collected(*objects, edited, now=NOW - 23 * HOUR, collector=collector))
    assert [one.ready_by for one in back] == [EIGHT - 23 * HOUR]


# CronJobs


def test_the_next_run_of_a_cron_job_is_wanted_for_its_parallel_pods() -> None:
    seen = artifact("a", line("nightly-uid.20261126", "-"))
    found = collected(cron_job(schedule="30 7 * * *", parallelism=2), seen)
    [run] = declared(found)
    assert (run.ready_by, run.until, run.count, run.source) == (NOW + 1800, NOW + 1920, 2, ToldBy.CRON_JOB)


def test_a_model_that_may_move_is_asked_for_anew_each_day_and_a_pinned_one_once() -> None:
    floating = collected(cron_job(schedule="30 7 * * *"))
    pinned = collected(cron_job(schedule="30 7 * * *", made=template(ref="ref:llama")))
    asked = [one.line.template for one in (*floating.questions, *pinned.questions)]
    assert [(one.uid, one.hash) for one in asked] == [("nightly-uid.20261126", "-"), ("nightly-uid", "run")]


def test_a_run_that_was_made_speaks_for_itself() -> None:
    seen = artifact("a", line("nightly-uid", "run", ref="ref:llama"))
    made = template(ref="ref:llama")
    late = NOW + 1830
    missed = declared(collected(cron_job(schedule="30 7 * * *", made=made), seen, now=late))
    assert [one.ready_by for one in missed] == [NOW + 1800, NOW + 1800 + 24 * HOUR]
    ran = cron_job(schedule="30 7 * * *", made=made, lastScheduleTime="2026-11-26T07:30:00Z")
    assert [one.ready_by for one in declared(collected(ran, seen, now=late))] == [NOW + 1800 + 24 * HOUR]


def test_suspended_cron_jobs_and_those_that_nobody_can_foretell() -> None:
    assert collected(cron_job(suspend=True)).declarations == ()
    every = collected(cron_job(schedule="@every 1h"))
    assert (reasons(every), declared(every)) == (["BadSchedule"], [])
    assert reasons(collected(cron_job(timeZone="Mars/Base"))) == ["BadSchedule"]


# floors, rollouts, nodes that leave


def hpa(least: int = 2, *, owner: str | None = None) -> Object:
    metadata = head("web", ownerReferences=[controlled("ScaledObject", owner)] if owner else [])
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": least, "maxReplicas": 9}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}


def scaled(*triggers: object, annotations: object = None) -> Object:
    spec = {"scaleTargetRef": {"name": "web"}, "minReplicaCount": 0, "triggers": list(triggers)}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": head("web", annotations=annotations),
        "spec": spec,
    }


def test_an_autoscalers_floor_is_wanted_always_unless_it_stands_still() -> None:
    [floor] = declared(collected(deployment(), replica_set(), WEB, hpa(2)))
    assert (floor.count, floor.ready_by, floor.source) == (2, None, ToldBy.AUTOSCALER)
    assert declared(collected(deployment(size=0), replica_set(replicas=0), WEB, hpa(2))) == []


def test_kedas_cron_triggers_are_windows_and_its_own_autoscaler_is_not_counted() -> None:
    trigger = {"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "4"}}
    objects = deployment(size=0), replica_set(replicas=0), WEB, hpa(1, owner="web")
    [coming] = declared(collected(*objects, scaled(trigger, {"type": "cpu"})))
    assert (coming.ready_by, coming.until, coming.count) == (EIGHT, EIGHT + 10 * HOUR, 4)
    within = declared(collected(*objects, scaled(trigger), now=EIGHT + HOUR))
    assert [one.until for one in within] == [EIGHT + 10 * HOUR, EIGHT + 34 * HOUR]
    paused = scaled(trigger, annotations={"autoscaling.keda.sh/paused": "true"})
    assert declared(collected(*objects, paused)) == []
    assert reasons(collected(*objects, scaled({"type": "cron", "metadata": {"start": "x"}}))) == ["BadTrigger"]


def test_a_rollouts_newest_template_is_wanted_where_the_old_pods_run_before_its_own_come() -> None:
    new = template(ref="hf://org/model@v2")
    sets = [
        {
            **one,
            "metadata": {
                **cast("dict[str, object]", one["metadata"]),
                "annotations": {"deployment.kubernetes.io/revision": number},
            },
        }
        for number, one in (("1", replica_set(replicas=2)), ("2", replica_set("web-new", revision="new", replicas=1, made=new)))
    ]
    others = [pod(f"x{on}", on=on, made={**template(gpus=3), "annotations": {}}, phase="Running") for on in ("n1", "n2")]
    old = pod("p1", owner=("ReplicaSet", "web-abc"), on="n2", phase="Running")
    seen = artifact("b", line(revision="new", ref="hf://org/model@v2"))
    found = collected(deployment(size=2, made=new), *sets, old, *others, WEB, seen)
    [rollout] = declared(found)
    assert (rollout.artifact, rollout.count, rollout.source) == (digest("b"), 2, ToldBy.ROLLOUT)
    assert rollout.at == {"n1": 1, "n2": 1}


@pytest.mark.parametrize(
    "taint",
    [
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "aws-node-termination-handler/spot-itn",
        "node.kubernetes.io/unschedulable",
    ],
)
def test_pods_of_a_node_that_leaves_are_wanted_elsewhere_before_they_move(taint: str) -> None:
    going = {**node("n1"), "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]}}
    there = pod("p1", owner=("ReplicaSet", "web-abc"), on="n1", phase="Running")
    mirrors = Mirrored(namespace(), going, node("n2"), deployment(), replica_set(), there, WEB)
    [moving] = declared(Collector().collect(mirrors, now=NOW))
    assert (moving.at, moving.feasible, moving.count, moving.source) == ({"n2": 4}, frozenset({"n2"}), 1, ToldBy.POD)


# many


def test_a_namespace_with_too_many_is_cut_at_its_soonest_and_others_are_not() -> None:
    windows = [{"name": f"w{number}", "readySchedule": f"{number} 8 * * *", "duration": "2m"} for number in range(32)]
    many = [schedule(f"s{number:03}", *windows) for number in range(40)]
    other = {**schedule("calm"), "metadata": {**head("calm", "calm"), "generation": 1}}
    model = {
        **staged_model(),
        "metadata": {**cast("dict[str, object]", staged_model()["metadata"]), "namespace": "calm", "uid": "calm-model"},
    }
    seen = artifact("c", line("calm-model", "1", "model", "ref:llama"), namespace="calm")
    found = Collector().collect(
        Mirrored(namespace(), namespace("calm"), node("n1"), staged_model(), MODEL, *many, other, model, seen), now=NOW
    )
    kept = declared(found)
    assert len([one for one in kept if one.namespace == "team"]) == EACH_MAX
    assert len([one for one in kept if one.namespace == "calm"]) == 1
    assert sum(found.cut.values()) == 40 * 32 - EACH_MAX
    assert max(one.ready_by or 0 for one in kept) < EIGHT + 26 * 60


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_schedules_of_one_namespace_are_bounded_work(count: int) -> None:
    one = schedule()
    many = [{**one, "metadata": {**head(f"s{number:06}"), "generation": 1}} for number in range(count)]
    mirrors = Mirrored(namespace(), node("n1"), staged_model(), MODEL)
    mirrors[STAGING_SCHEDULES].replace(many)
    collector = Collector()
    collector.collect(mirrors, now=NOW)
    began_s = time.process_time()
    found = collector.collect(mirrors, now=NOW + 1)
    assert time.process_time() - began_s < 3.0
    assert len(declared(found)) == OBJECTS_MAX
    assert len(found.unread) == count - OBJECTS_MAX


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, EACH_MAX), max_size=40))
def test_shares_fill_what_there_is_and_cut_nobody_who_wants_less(wanted: dict[str, int]) -> None:
    total = 3000
    most = share(wanted, total)
    given_each = [min(amount, most) for amount in wanted.values()]
    assert sum(given_each) <= total
    if any(amount > most for amount in wanted.values()):
        assert sum(given_each) + sum(amount > most for amount in wanted.values()) > total
    assert ALL_MAX > EACH_MAX


WORDS = st.sampled_from(["0 8 * * *", "* * * * *", "61 * * * *", "@every 1h", "", "0 0 31 2 *", "Europe/Berlin", "x", "9" * 400])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def _objects(junk: object) -> Iterable[Object]:
    names = [
        "schedule",
        "timeZone",
        "suspend",
        "startingDeadlineSeconds",
        "jobTemplate",
        "scaleTargetRef",
        "minReplicas",
        "triggers",
        "windows",
    ]
    for name in names:
        for made in (schedule(), cron_job(), hpa(), scaled(), deployment()):
            kind = str(made["kind"])
            spec = {**cast("dict[str, object]", made["spec"]), name: junk}
            metadata = {
                **cast("dict[str, object]", made["metadata"]),
                "name": f"{kind.lower()}-{name.lower()}",
                "uid": f"{kind}{name}",
            }
            yield {"apiVersion": OURS, "kind": kind, "metadata": metadata, "spec": spec, "status": {"lastScheduleTime": junk}}


@settings(max_examples=30)
@given(JSON)
def test_no_object_however_broken_stops_the_others(junk: object) -> None:
    found = collected(staged_model(), MODEL, *_objects(junk), schedule("good"))
    assert "good-uid/always/llama/always" in {one.id for one in declared(found)}
    assert REF
