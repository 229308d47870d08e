"""What the planner knows of a node, what it writes, and what it says of it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.cluster import Cluster, running, until
from planning.objects import OURS, digest, head, namespace, node, node_cache, pod
from planning.worlds import NOW, bound
from planning.worlds import node as state

from prestage.api.models import StagedModel
from prestage.api.nodes import Action, EntryType, ErrorClass, SourceType, State, Step
from prestage.api.policies import StorePool
from prestage.api.reading import read
from prestage.api.values import ConditionStatus
from prestage.control.demand.collecting import Collected
from prestage.control.demand.image_lines import image_line
from prestage.control.demand.records import Known, Line, Question
from prestage.control.demand.resolving import Failure
from prestage.control.planning.app import Planner, run
from prestage.control.planning.board import Posted
from prestage.control.planning.explaining import complaints
from prestage.control.planning.states import Caches, cache_of, is_ours, plan_in, state_of
from prestage.control.planning.statuses import Spread, model_status, spreads
from prestage.control.planning.steps import with_steps
from prestage.control.planning.together import Together
from prestage.control.planning.writing import body_of, writes
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object
from prestage.kube.resources import DEPLOYMENTS
from prestage.planner.demands import Demand, Trust
from prestage.planner.nodes import Held
from prestage.planner.plan import plan
from prestage.planner.plans import ORIGIN, Assignment, NodePlan, Outcome, Plan, Reason, Source, Verdict

LATER = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PLANNED = NodePlan(
    "n1",
    "n1-uid",
    (
        Assignment(digest("a"), Action.STAGE, 900_000_000, 1.5e9, (Source(SourceType.PEER, "n2"), ORIGIN)),
        Assignment(digest("b"), Action.KEEP),
    ),
)


def cache(name: str = "n1", **status: object) -> Object:
    made = node_cache(name)
    said = made["status"]
    assert isinstance(said, dict)
    return {**made, "status": {**said, **status}}


def test_what_is_written_is_what_is_read_back() -> None:
    seen = cache_of(body_of(PLANNED))
    assert seen is not None
    assert plan_in(seen) == PLANNED
    assert seen.spec.plan == PLANNED.version
    assert [owner.uid for owner in seen.metadata.owner_references or ()] == ["n1-uid"]


def test_only_nodes_that_say_something_new_are_written_and_foreign_ones_deleted() -> None:
    said = {**body_of(PLANNED), "metadata": head("n1", None, uid="c1")}
    foreign = {**node_cache("gone"), "metadata": head("gone", None, uid="c2")}
    anew = {**node_cache("n3", uid="old-uid"), "metadata": head("n3", None, uid="c3")}
    plans = {"n1": PLANNED, "n2": NodePlan("n2", "n2-uid"), "n3": NodePlan("n3", "n3-uid")}
    due = writes(plans, Caches().look([said, foreign, anew]), {})
    assert [made.node for made in due.apply] == ["n2"]
    assert due.foreign == (("gone", "c2"), ("n3", "c3"))
    assert writes(plans, Caches().look([said]), {"n2": plans["n2"]}).apply == (plans["n3"],)


def test_a_node_is_as_its_agent_says_within_the_limits_of_its_pool() -> None:
    held = [{"digest": digest("a"), "state": "Failed", "errorClass": "Full", "errorCode": "NoRoom"}]
    seen = cache_of(cache(budget="2Gi", originRateP10="1Gi", artifacts=held))
    pool = read(
        StorePool,
        {
            "kind": "StorePool",
            "apiVersion": OURS,
            "metadata": {"name": "p"},
            "spec": {
                "nodeSelector": {"matchLabels": {"gpu": "h100"}},
                "root": "/a",
                "budget": "1Gi",
                "originBytesPerSecond": "5Mi",
            },
        },
    )
    plain = state_of(node("n1"), seen, [pool])
    assert (plain.budget_bytes, plain.rate_bytes_per_s, plain.is_accepting) == (2**31, 2.0**30, True)
    assert plain.held == {digest("a"): Held(State.FAILED, ErrorClass.FULL, "NoRoom")}
    pooled = state_of(node("n1", gpu="h100"), seen, [pool])
    assert (pooled.budget_bytes, pooled.rate_bytes_per_s) == (2**30, 5.0 * 2**20)


@pytest.mark.parametrize(
    "taint",
    [
        "node.kubernetes.io/not-ready",
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "node.kubernetes.io/unschedulable",
    ],
)
def test_a_node_that_is_away_or_going_gets_nothing_new(taint: str) -> None:
    seen = cache_of(cache())
    assert not state_of(node("n1", taints=[{"key": taint, "effect": "NoSchedule"}]), seen, []).is_accepting
    assert state_of(node("n1", taints=[{"key": "gpu", "effect": "NoSchedule"}]), seen, []).is_accepting


def test_an_agent_that_is_unwell_or_did_not_report_and_a_cache_of_another_node_count_for_nothing() -> None:
    moment = "2026-01-01T00:00:00Z"
    unwell = {"type": "Ready", "status": "False", "reason": "Disk", "lastTransitionTime": moment}
    assert not state_of(node("n1"), cache_of(cache(conditions=[unwell])), []).is_accepting
    assert state_of(node("n1"), None, []).budget_bytes is None
    other = state_of(node("n1"), cache_of(node_cache("n1", "a", uid="another")), [])
    assert (other.budget_bytes, other.held, other.planned) == (None, {}, {})


def test_what_was_written_counts_before_it_is_seen() -> None:
    assert state_of(node("n1"), cache_of(cache()), [], sent=PLANNED).planned.keys() == {digest("a"), digest("b")}


def test_windows_and_nodes_that_are_deleted_get_no_cache() -> None:
    assert is_ours(node("n1"))
    assert not is_ours({"metadata": {"labels": {"kubernetes.io/os": "windows"}}})
    assert not is_ours({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})


MODEL = read(
    StagedModel,
    {"kind": "StagedModel", "apiVersion": OURS, "metadata": {"name": "llama", "generation": 2}, "spec": {"source": "hf://a/b"}},
)
KNOWN = Known(digest("a"), 9, "team", "r1", 3)
QUESTION = Question("team", Line("u", "2", "model", "ref:llama"))


def failure(kind: ErrorClass) -> Failure:
    return Failure(QUESTION, kind, "OriginRefused", "no right", "name a Secret", 1, 0.0)


@pytest.mark.parametrize(
    ("known", "failed", "spread", "said"),
    [
        (None, None, Spread(), {"Resolved": "Unknown", "Authorized": "Unknown", "Warm": "Unknown", "Ready": "Unknown"}),
        (None, failure(ErrorClass.DENIED), Spread(), {"Resolved": "False", "Authorized": "False", "Ready": "False"}),
        (None, failure(ErrorClass.UNAVAILABLE), Spread(), {"Resolved": "False", "Authorized": "Unknown", "Ready": "False"}),
        (KNOWN, None, Spread(), {"Resolved": "True", "Authorized": "True", "Warm": "False", "Ready": "True"}),
        (KNOWN, None, Spread(warm=1, wanted=2, wanted_warm=1), {"Warm": "False", "Ready": "False"}),
        (KNOWN, None, Spread(warm=3, wanted=2, wanted_warm=2), {"Warm": "True", "Ready": "True"}),
        (KNOWN, None, Spread(wanted=1, failed=(("Full", "NoRoom"),)), {"Warm": "False", "Ready": "False"}),
    ],
)
def test_conditions_of_a_staged_model(
    known: Known | None, failed: Failure | None, spread: Spread, said: Mapping[str, str]
) -> None:
    status = model_status(MODEL, known, failed, spread, LATER)
    found = {one.type: str(one.status) for one in status.conditions or ()}
    assert found.keys() == {"Resolved", "Authorized", "Warm", "Ready"}
    assert {kind: found[kind] for kind in said} == said
    assert status.observed_generation == 2


def test_a_status_that_says_nothing_new_is_the_same_and_a_revision_is_not_forgotten() -> None:
    first = model_status(MODEL, KNOWN, None, Spread(), LATER)
    later = LATER + datetime.timedelta(hours=1)
    again = msgspec.structs.replace(MODEL, status=first)
    assert model_status(again, Known(digest("a"), 9, "team", None, 3), None, Spread(), later) == first
    ready = [one for one in first.conditions or () if one.type == "Ready"]
    assert ready[0].status is ConditionStatus.TRUE


def test_a_spread_counts_warm_staging_and_wanted_nodes() -> None:
    nodes = [state("n1", 100, "a"), state("n2")]
    made = plan([bound("a", "n1", "n2")], nodes, NOW)
    assert spreads(made, nodes)["a"] == Spread(warm=1, staging=0, wanted=2, wanted_warm=1)


OF_WINDOWS = {
    Reason.PLANNED,
    Reason.OVER,
    Reason.TOO_SOON,
    Reason.LINK_BUSY,
    Reason.ORIGIN_BUSY,
    Reason.TOO_FEW_NODES,
    Reason.NAMESPACE_PINNED,
}
"""Never of a pod: test_schedules.py."""


@pytest.mark.parametrize(
    "reason", [one for one in Reason if one not in {Reason.WARM, Reason.STAGING, Reason.RETRYING, Reason.KEPT, *OF_WINDOWS}]
)
def test_whatever_keeps_a_model_away_is_told_with_a_next_step(reason: Reason) -> None:
    subject = Subject(DEPLOYMENTS, "web", "team", "web-uid")
    demand = Demand("d", digest("a"), 1, "team", Trust.BOUND, gpus=8)
    error = ("Denied", "OriginRefused") if reason is Reason.STAGE_FAILED else None
    collected = Collected((demand,), lines={"d": Line("web-uid", "abc", "llama", "ref:llama")}, subjects={"web-uid": subject})
    posted = Posted(collected, plan=Plan(verdicts={"d": Verdict(Outcome.IMPOSSIBLE, reason, error=error)}))
    [said] = complaints(posted, {})
    assert said.note.startswith("model llama (ref:llama)")
    assert "; " in said.note
    assert digest("a") not in said.note


@pytest.mark.parametrize(
    "reason",
    [
        one
        for one in Reason
        if one not in {Reason.WARM, Reason.STAGING, Reason.RETRYING, Reason.KEPT, Reason.NO_NODE, *OF_WINDOWS}
    ],
)
def test_whatever_keeps_an_image_away_is_told_as_of_an_image_by_the_name_that_its_pod_has_for_it(reason: Reason) -> None:
    subject = Subject(DEPLOYMENTS, "web", "team", "web-uid")
    demand = Demand("d", digest("a"), 1, "team", Trust.BOUND, kind=EntryType.IMAGE)
    line = image_line("web-uid", "abc", "oci://registry.example/vllm:0.33", "amd64")
    error = ("Denied", "OriginRefused") if reason is Reason.STAGE_FAILED else None
    collected = Collected((demand,), lines={"d": line}, subjects={"web-uid": subject})
    [said] = complaints(Posted(collected, plan=Plan(verdicts={"d": Verdict(Outcome.IMPOSSIBLE, reason, error=error)})), {})
    assert said.note.startswith("image (oci://registry.example/vllm:0.33)")
    assert not any(word in said.note for word in ("StorePool", "another model", "whole store", digest("a")))


_RAW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["Download", "Unpack", "Dance", digest("a")]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["digest", "step", "artifacts"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_RAW, st.sampled_from(["Download", "Unpack"]))
def test_steps_are_read_between_plans_whatever_else_stands_in_a_node_cache(raw: object, step: str) -> None:
    busy = dataclasses.replace(
        state("n1"), held={digest("a"): Held(State.STAGING, step=Step.RESOLVE), digest("b"): Held(State.WARM)}
    )
    mirror = Mirror()
    mirror.replace([{"metadata": {"name": "n1"}, "status": raw}])
    assert with_steps([busy], mirror)[0].held.keys() == busy.held.keys()
    said = [{"digest": digest("a"), "step": step}, {"digest": digest("b"), "step": step}, {"digest": digest("c"), "step": step}]
    mirror.replace([{"metadata": {"name": "n1"}, "status": {"artifacts": said}}])
    [after] = with_steps([busy], mirror)
    assert {one: held.step for one, held in after.held.items()} == {digest("a"): Step(step), digest("b"): None}


def test_what_comes_in_its_time_is_no_complaint() -> None:
    subject = Subject(DEPLOYMENTS, "web", "team", "web-uid")
    demand = Demand("d", digest("a"), 1, "team", Trust.BOUND)
    collected = Collected((demand,), lines={"d": Line("web-uid", "abc", "llama", "ref:llama")}, subjects={"web-uid": subject})
    posted = Posted(collected, plan=Plan(verdicts={"d": Verdict(Outcome.LATE, Reason.STAGING)}))
    assert complaints(posted, {}) == []


def test_services_run_while_it_leads_with_the_same_mirrors_and_end_with_it() -> None:
    async def steps() -> None:
        cluster, seen = Cluster(), list[str]()
        await cluster.put(namespace(), node("n1"))

        async def service(together: Together) -> None:
            try:
                seen.append(f"began in {together.namespace}")
                await together.world.synced()
                await asyncio.Event().wait()
            finally:
                seen.append("ended")

        async with running(cluster.planner(services=(service,))):
            await until(lambda: bool(seen))
        assert seen == ["began in prestage", "ended"]

    asyncio.run(steps())


def test_health_and_metrics_are_served_until_it_is_told_to_stop() -> None:
    import aiohttp

    async def steps() -> None:
        cluster, ports, stop = Cluster(), list[int](), asyncio.Event()
        await cluster.put(namespace(), node("n1"), pod("p1", on="n1"))
        planner: Planner = cluster.planner()
        task = asyncio.create_task(run(planner, ("127.0.0.1", 0), stop, listening=ports.append))

        async def is_staged() -> bool:
            return bool(await cluster.spec("n1"))

        await until(is_staged)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{ports[0]}/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            async with session.get(f"http://127.0.0.1:{ports[0]}/metrics") as answer:
                text = await answer.text()
        assert "prestage_planner_leading 1.0" in text
        assert 'prestage_demands{outcome="Late",trust="bound"} 1.0' in text
        assert 'prestage_planner_writes_total{what="nodecache"} 2.0' in text
        assert "team" not in text
        stop.set()
        async with asyncio.timeout(5):
            await task
        assert not planner.tally.is_leading

    asyncio.run(steps())
