"""`kubectl prestage why`: why it was cold, why it is still here, why it went and when it comes back; walls between namespaces."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, LLAMA, OTHER, artifact, node_cache, pod

from prestage.api.nodes import NodeCache
from prestage.api.reading import read
from prestage.cacher.errors import NotFound
from prestage.control.planning.decision_log import packed
from prestage.control.planning.recalling import Recall, cold, late_words, returns, stays, went
from prestage.kube.errors import Forbidden
from prestage.kube.ports import EVERYTHING, Object, Page, Resource, Selection, metadata_of
from prestage.kube.resources import (
    ARTIFACTS,
    CONFIG_MAPS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STORE_POOLS,
)
from prestage.kube.testing import FakeApi
from prestage.kubectl.why import Asked, answer, asked_for
from prestage.planner.decisions import Because, Decided, Decision, Decisions
from prestage.planner.demands import ToldBy
from prestage.planner.plans import Reason

NOW = 1_900_000_000.0
MADE = NOW - 3600
A, B = DIGEST, OTHER


def said(at: float, what: Decided, because: str = "", *nodes: str, artifact: str = A, by: str = "Deployment/chat") -> Decision:
    whose = "team-a" if what not in (Decided.GONE, Decided.WARM) else ""
    return Decision(at, what, artifact, nodes or ("n1",), because=because, namespace=whose, by=by if whose else "")


def recall(*decisions: Decision, namespace: str | None = "team-a") -> Recall:
    return Recall(list(Decisions(decisions)), namespace, NOW)


def cache(name: str, states: dict[str, str], *planned: tuple[str, str]) -> NodeCache:
    made = node_cache(name, states)
    return read(NodeCache, {**made, "spec": {"nodeUID": "u", "artifacts": [{"digest": d, "action": a} for d, a in planned]}})


OLD = said(MADE - 90_000, Decided.STAGE, ToldBy.POD, artifact=B)
"""The log goes back further than the pod."""


def test_cold_because_nobody_said_it() -> None:
    [first, told, warm] = cold(
        recall(OLD, said(MADE + 1, Decided.STAGE, ToldBy.POD), said(MADE + 45, Decided.WARM)), A, "n1", MADE
    )
    assert first.startswith(
        "nobody had said that it would be wanted on n1: the pod was the first sign; prestage.dev/ready-schedule"
    )
    assert told == "n1 was told to stage it 1.0 s after the pod was made"
    assert warm == "it was warm on n1 45.0 s after the pod was made"


def test_cold_because_it_had_been_evicted_and_why() -> None:
    story = [
        said(MADE - 9000, Decided.WARM),
        said(MADE - 5000, Decided.RELEASE, Because.NOT_WANTED),
        said(MADE - 600, Decided.GONE, Because.ROOM),
        said(MADE + 1, Decided.STAGE, ToldBy.POD),
    ]
    lines = cold(recall(OLD, *story), A, "n1", MADE)
    assert "n1 had it until 2030-03-17T16:36:40Z: nothing in the plan kept it, and room was needed" in lines[0]
    assert lines[1].endswith("that it need not stay: nobody asks for it")
    assert lines[2].startswith("nothing asked for it again before the pod came; prestage.dev/ready-schedule")


def test_cold_because_it_began_too_late_or_failed_and_what_the_planner_said_of_it() -> None:
    late = dataclasses.replace(
        said(MADE - 50, Decided.LATE, Reason.TOO_SOON, by="StagingSchedule/day"), ready_by=MADE - 10, late_s=80.0
    )
    begun = said(MADE - 60, Decided.STAGE, ToldBy.STAGING_SCHEDULE, by="StagingSchedule/day")
    lines = cold(recall(OLD, begun, late), A, "n1", MADE)
    assert lines[0] == "n1 was told to stage it 1 min 0 s before the pod was made, for StagingSchedule/day, by a StagingSchedule"
    assert lines[1].endswith(
        "the planner said of StagingSchedule/day wanted ready by 2030-03-17T16:46:30Z, 1 min 20 s late: "
        "its bytes took longer than what was left"
    )
    failed = said(MADE - 30, Decided.FAILED, "Denied/NoCredentials")
    assert "staging it on n1 failed at 2030-03-17T16:46:10Z: Denied/NoCredentials" in cold(
        recall(OLD, begun, failed), A, "n1", MADE
    )


def test_what_was_there_was_not_cold_and_a_log_that_is_too_young_says_so() -> None:
    assert cold(recall(OLD, said(MADE - 10, Decided.WARM)), A, "n1", MADE) == []
    young, told = cold(recall(said(MADE + 1, Decided.STAGE, ToldBy.POD)), A, "n1", MADE)
    assert young.endswith("is not known: the decision log begins at 2030-03-17T16:46:41Z")
    assert told == "n1 was told to stage it 1.0 s after the pod was made"
    [nothing] = cold(recall(), A, "n1", MADE)
    assert nothing.endswith("is not known: the decision log is empty")


def test_why_it_is_still_here() -> None:
    kept = recall(said(NOW - 60, Decided.KEEP, ToldBy.TEMPLATE))
    says = stays(kept, A, cache("n1", {A: "Warm"}, (A, "Keep")))
    assert says == (
        "it is on n1, whose plan keeps it there since 2030-03-17T17:45:40Z, for Deployment/chat, "
        "by its template, of which more pods may come"
    )
    dropped = recall(said(NOW - 60, Decided.RELEASE, Because.NOT_WANTED))
    unlisted = stays(dropped, A, cache("n1", {A: "Warm"}, (B, "Stage")))
    assert unlisted.endswith(
        "need not stay since 2030-03-17T17:45:40Z: nobody asks for it; it goes when room is needed, and none was yet"
    )
    assert "it goes first when room" in stays(dropped, A, cache("n1", {A: "Warm"}, (B, "Stage"), (A, "Release")))
    assert stays(recall(), A, cache("n1", {A: "Warm"})) == "it is on n1, whose plan says nothing: nothing is evicted there"


def test_why_it_went_and_when_it_comes_back() -> None:
    warm = said(NOW - 90, Decided.WARM, "", "n1", "n2", "n3")
    gone = said(NOW - 50, Decided.GONE, Because.ROOM, "n1", "n2")
    lost = said(NOW - 40, Decided.GONE, Because.NODE_GONE, "n3", artifact="")
    plans = dataclasses.replace(
        said(NOW - 30, Decided.PLANNED, ToldBy.STAGING_SCHEDULE, by="StagingSchedule/day"), begins=NOW + 60, ready_by=NOW + 600
    )
    seen = [cache("n1", {}), cache("n2", {A: "Staging"}, (A, "Stage"))]
    one, two, three = went(recall(warm, gone, lost, plans), A, seen)
    assert one.endswith("the node is gone")
    assert two.startswith("n1 had it until 2030-03-17T17:45:50Z: nothing in the plan kept it")
    assert two.endswith(
        "; it comes back there: staging begins at 2030-03-17T17:47:40Z at the latest, to be ready by 2030-03-17T17:56:40Z, "
        "for StagingSchedule/day, by a StagingSchedule"
    )
    assert three.endswith("; it is being staged there again")
    assert went(recall(warm, gone), A, [cache("n1", {A: "Warm"}), cache("n2", {A: "Warm"})]) == []
    assert returns(recall(plans), A).startswith("it is wanted next at 2030-03-17T17:56:40Z, for StagingSchedule/day")
    dropped = said(NOW - 10, Decided.RELEASE, Because.NOT_WANTED)
    assert returns(recall(plans, dropped), A).startswith("nothing says")
    assert "comes back" not in "".join(went(recall(warm, gone, plans, dropped), A, [cache("n1", {})]))
    assert returns(recall(gone), A).startswith("nothing says when it will be wanted next: it comes back with its next pod")


async def world(api: FakeApi, decisions: Iterable[Decision] | None) -> None:
    enabled = {"metadata": {"name": "team-a", "labels": {"prestage.dev/enabled": "true"}}}
    await api.create(NAMESPACES, enabled)
    await api.create(PODS, pod(spec={"nodeName": "n1"}))
    for place in ("team-a", "team-b"):
        digest, ref = (A, LLAMA) if place == "team-a" else (B, "hf://secret/model@main")
        made = artifact(digest, ref=ref, alias="llama" if place == "team-a" else "hidden")
        await api.create(ARTIFACTS, {**made, "metadata": {"name": digest.replace(":", "-"), "namespace": place}})
        there = {**made, "metadata": {"name": digest.replace(":", "-"), "namespace": place, "resourceVersion": ""}}
        await api.replace(ARTIFACTS, there, subresource="status")
    await api.create(NODE_CACHES, node_cache("n1", {A: "Warm", B: "Warm"}))
    await api.replace(NODE_CACHES, node_cache("n1", {A: "Warm", B: "Warm"}), subresource="status")
    if decisions is not None:
        data = base64.b64encode(packed(Decisions(decisions))).decode()
        body = {"metadata": {"name": "prestage-decisions", "namespace": "prestage"}, "binaryData": {"log": data}}
        await api.create(CONFIG_MAPS, body)


def told(api: FakeApi, what: str, namespace: str = "team-a", now: float = NOW) -> str:
    found = asyncio.run(answer(api, asked_for(what), namespace, "prestage", now))
    return "\n".join(f"{one.about}: {one.says}" for one in found)


THEIRS = dataclasses.replace(said(NOW - 30, Decided.STAGE, ToldBy.POD, artifact=B, by="Deployment/theirs"), namespace="team-b")
SHARED = dataclasses.replace(said(NOW - 20, Decided.STAGE, ToldBy.POD, by="Deployment/theirs"), namespace="team-b")


def test_a_pod_a_model_and_a_node_are_answered_for() -> None:
    api = FakeApi()
    asyncio.run(world(api, [OLD, said(NOW - 90, Decided.WARM), said(NOW - 60, Decided.STAGE, ToldBy.POD), THEIRS]))
    assert "models: llama = hf://org/llama@main" in told(api, "pod/p")
    for name in ("llama", LLAMA, A, "model/llama"):
        assert f"artifact: {A[:19]}, 1.0 GB" in told(api, name)
        assert "here: it is on n1, whose plan wants it there since" in told(api, name)
    node = told(api, "node/n1")
    assert f"{A[:19]} (team-a: {LLAMA}): it is on n1, whose plan wants it there" in node
    assert f"{B[:19]} (team-b: hf://secret/model@main): it is on n1" in node
    assert "for Deployment/theirs in team-b" in node


def test_a_namespace_hears_nothing_of_anothers_models_nor_who_shares_its_own() -> None:
    api = FakeApi()
    asyncio.run(world(api, [OLD, THEIRS, SHARED]))
    for what in ("pod/p", "model/llama"):
        heard = told(api, what)
        assert not any(word in heard for word in ("theirs", "team-b", "secret", "hidden", B[:19]))
    assert "for another namespace, by a pod" in told(api, "model/llama")
    for foreign in ("hidden", "hf://secret/model@main", B, "model/hidden"):
        with pytest.raises(NotFound, match="that you may see"):
            told(api, foreign)


NAMES = st.sampled_from(["team-b", "team-c"])
ANY = st.builds(
    Decision,
    at=st.floats(MADE - 1000, NOW),
    what=st.sampled_from(Decided),
    artifact=st.sampled_from([A, B, ""]),
    nodes=st.sets(st.sampled_from(["n1", "n2"])).map(tuple),
    because=st.sampled_from([*map(str, Because), *map(str, ToldBy), *map(str, Reason), "Denied/X"]),
    namespace=NAMES,
    by=st.sampled_from(["Deployment/theirs", "StagingSchedule/theirs"]),
    begins=st.none() | st.floats(0, 1e12),
    ready_by=st.none() | st.floats(0, 1e12),
    late_s=st.none() | st.floats(0, 1e9),
)


@given(st.lists(ANY, max_size=12), st.sampled_from(["Stage", "Keep", "Release"]))
def test_whatever_others_decided_a_namespace_hears_no_name_of_theirs(decisions: list[Decision], action: str) -> None:
    asked = recall(*decisions)
    seen = [cache("n1", {A: "Warm"}, (A, action)), cache("n2", {})]
    heard = [*cold(asked, A, "n1", MADE), stays(asked, A, seen[0]), *went(asked, A, seen), returns(asked, A)]
    assert not any(word in line for line in heard for word in ("theirs", "team-", B))
    operator = recall(*decisions, namespace=None)
    assert all(isinstance(line, str) for line in [*went(operator, A, seen), stays(operator, A, seen[0])])
    assert all(map(late_words, decisions))


class Walled(FakeApi):
    """As a tenant sees it: its own namespace, nothing of the cluster nor of ours."""

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        if namespace != "team-a" and resource != NAMESPACES:
            raise Forbidden("no")
        return await super().get(resource, name, namespace=namespace, subresource=subresource)

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        if selection.namespace != "team-a":
            raise Forbidden("no")
        return await super().page(resource, selection, limit=limit, rest=rest)


async def waited(api: FakeApi, seconds: float, *, status: str = "True") -> float:
    """The pod is warm (or heard last) so long after it was made; when that was."""
    seen = await FakeApi.get(api, PODS, "p", namespace="team-a")
    made = datetime.datetime.fromisoformat(str(seen["metadata"]["creationTimestamp"]))  # type: ignore[index]
    warm = (made + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "prestage.dev/Warm", "status": status, "reason": "Warm", "message": "x", "lastTransitionTime": warm}
    await api.replace(PODS, {**seen, "status": {"conditions": [condition]}}, subresource="status")
    return made.timestamp()


def test_who_may_read_only_his_own_namespace_is_told_that_it_was_cold_and_what_helps() -> None:
    api = Walled()
    asyncio.run(world(api, [OLD]))
    asyncio.run(waited(api, 43))
    heard = told(api, "pod/p")
    assert (
        "cold: it was not there when the pod was made, and came 43 s later; prestage.dev/ready-schedule on its workload" in heard
    )
    assert "decisions: you may not read the planners' decision log" in heard
    assert "nodes: you may not read NodeCaches" in told(api, "model/llama")
    with pytest.raises(NotFound):
        told(api, "node/n1")


def test_a_pod_that_never_was_warm_is_not_told_that_it_was() -> None:
    api = Walled()
    asyncio.run(world(api, [OLD]))
    asyncio.run(waited(api, 43, status="False"))
    assert re.search(
        r"cold: it was not there when the pod was made, and \d+ s later it still is not; prestage", told(api, "pod/p")
    )


def test_a_pod_that_was_cold_is_told_from_the_log_and_one_that_was_not_hears_nothing_of_it() -> None:
    api = FakeApi()
    asyncio.run(world(api, [dataclasses.replace(OLD, at=1.0)]))
    asyncio.run(waited(api, 3))
    assert "cold:" not in told(api, "p")
    asyncio.run(waited(api, 43))
    assert "cold: llama: nobody had said that it would be wanted on n1: the pod was the first sign" in told(api, "p")


def test_a_node_that_takes_no_pods_yet_says_until_when_and_what_it_lacks() -> None:
    async def steps(api: FakeApi) -> None:
        taints = [{"key": "prestage.dev/starting", "effect": "NoSchedule"}]
        await api.create(NODES, {"metadata": {"name": "n1", "labels": {}}, "spec": {"taints": taints}})
        pool = {"nodeSelector": {}, "root": "/mnt/a", "startupTaint": {"maxSeconds": 300}}
        await api.create(STORE_POOLS, {"metadata": {"name": "p"}, "spec": pool})
        there = await api.get(NODE_CACHES, "n1")
        await api.replace(NODE_CACHES, {**there, "status": node_cache("n1", {A: "Warm"})["status"]}, subresource="status")

    api = FakeApi()
    asyncio.run(world(api, []))
    asyncio.run(steps(api))
    made = datetime.datetime.fromisoformat(str(metadata_of(asyncio.run(api.get(NODES, "n1")))["creationTimestamp"]))
    by = (made + datetime.timedelta(seconds=300)).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = f"its taint prestage.dev/starting goes once it is filled, at {by} at the latest; 1 of 2 to be staged are there"
    assert f"starting: no pods yet: {said}" in told(api, "node/n1")
    asyncio.run(api.patch(NODES, "n1", {"spec": {"taints": None}}))
    assert "starting:" not in told(api, "node/n1")


def test_a_schedule_that_names_a_model_says_when_it_is_wanted_next() -> None:
    async def steps(api: FakeApi) -> None:
        source = {"type": "Model", "source": "hf://org/llama", "revision": "main", "revisionPolicy": "Fixed"}
        await api.create(STAGED_MODELS, {"metadata": {"name": "chat", "namespace": "team-a"}, "spec": source})
        spec = {
            "artifacts": [{"name": "w", "type": "Model", "modelRef": {"name": "chat"}}],
            "nodes": {"selector": {}},
            "windows": [{"name": "day", "readySchedule": "0 8 * * 1-5", "duration": "10h"}],
        }
        made = await api.create(STAGING_SCHEDULES, {"metadata": {"name": "day", "namespace": "team-a"}, "spec": spec})
        coming = {"window": "day", "readyBy": "2030-03-18T08:00:00Z", "startAt": "2030-03-18T07:50:00Z"}
        await api.replace(STAGING_SCHEDULES, {**made, "status": {"next": coming}}, subresource="status")

    api = FakeApi()
    asyncio.run(world(api, []))
    asyncio.run(steps(api))
    heard = told(api, "chat")
    assert "artifact: chat is not resolved yet" in heard
    model = asyncio.run(api.get(STAGED_MODELS, "chat", namespace="team-a"))
    resolved = {"digest": A, "revision": "x", "files": 1, "size": 10**9}
    asyncio.run(api.replace(STAGED_MODELS, {**model, "status": {"artifact": resolved}}, subresource="status"))
    assert (
        "StagingSchedule/day wants it ready by 2030-03-18T08:00:00Z, staging begins at 2030-03-18T07:50:00Z at the latest"
        in told(api, "chat")
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("p", Asked("", "p")),
        ("pod/p", Asked("pod", "p")),
        ("Nodes/n1", Asked("node", "n1")),
        ("stagedmodels/llama", Asked("model", "llama")),
        ("hf://org/model@main", Asked("", "hf://org/model@main")),
        ("model/hf://org/model@main", Asked("model", "hf://org/model@main")),
        ("s3://bucket/x/", Asked("", "s3://bucket/x/")),
        ("pod/", Asked("", "pod/")),
    ],
)
def test_what_is_asked_for_is_read_as_kubectl_reads_it(text: str, asked: Asked) -> None:
    assert asked_for(text) == asked
