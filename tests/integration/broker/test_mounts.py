"""Which pods may mount what: by what their namespace resolved, its StagedModels, grants; and what others are told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from brokers import Broker, Cluster, PodMade, play, wish
from offers import MODEL, repository

from prestage.api.brokerage import MountsAnswer, MountsRequest, PodIdentity, Resolved, WantedMount
from prestage.cacher.errors import Busy, Denied, Misconfigured, PrestageError
from prestage.kube.resources import PODS, STAGED_MODEL_GRANTS
from prestage.wire.broker_client import refusal_of
from servers.hub import Hub

REF = "hf://org/public@main"


@pytest.fixture
def cluster(hub: Hub) -> Cluster:
    made = Cluster()
    for name in ("team-a", "team-b"):
        made.namespace(name)
    repository(hub, "org/public", dict(MODEL))
    made.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    return made


def asks(pod: PodMade, *models: WantedMount) -> MountsRequest:
    return MountsRequest(pod=pod.identity, pod_token=pod.token, models=list(models))


async def mounted(broker: Broker, pod: PodMade, *models: WantedMount, node: str = "n1") -> MountsAnswer:
    return await broker.node(node).mounts(asks(pod, *models))


async def refused(broker: Broker, kind: type[PrestageError], code: str, request: MountsRequest, *, node: str = "n1") -> str:
    with pytest.raises(kind) as found:
        await broker.node(node).mounts(request)
    refusal = refusal_of(found.value)
    assert refusal is not None
    assert refusal.code == code, refusal
    return str(found.value)


async def resolved_for(broker: Broker, pod: PodMade, ref: str = REF, alias: str = "llama", **more: str) -> Resolved:
    """As the planner has it resolved."""
    template = pod.template
    request = wish(ref, namespace=pod.identity.namespace, uid=template.uid, hash_=template.hash, alias=alias, **more)
    made = await broker.planner.resolve(request)
    await broker.shelved()
    return made


def test_a_pod_mounts_what_its_template_got_named_by_admission_or_not(
    cluster: Cluster, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        early = asks(pod, WantedMount(alias="llama", ref=REF))
        assert "not resolved yet" in await refused(broker, Busy, "NotResolved", early)
        made = await resolved_for(broker, pod)
        repository(hub, "org/public", {**MODEL, "config.json": b"{}"})  # upstream moves
        for wanted in (WantedMount(alias="llama", ref=REF), WantedMount(alias="llama", ref=REF, artifact=made.artifact)):
            answer = await mounted(broker, pod, wanted)
            [one] = answer.models
            assert (one.alias, one.artifact, one.repo, one.revision) == ("llama", made.artifact, "org/public", "main")
            assert one.rule == "namespace team-a resolved it"
            assert answer.fresh_until < answer.valid_until
        other = asks(pod, WantedMount(alias="other", ref=REF))
        await refused(broker, Busy, "NotResolved", other)
        second = await broker.pod("team-a", "n2", name="pod-2")
        [one] = (await mounted(broker, second, WantedMount(alias="llama", ref=REF), node="n2")).models
        assert one.artifact == made.artifact, "scaled up after upstream moved"

    with caplog.at_level(logging.INFO, logger="prestage"):
        play(cluster, tmp_path, test)
    granted = [record.fields for record in caplog.records if record.message == "mount-granted"]  # type: ignore[attr-defined]
    assert len(granted) == 3
    assert granted[0]["namespace"] == "team-a"
    assert granted[0]["rule"] == "namespace team-a resolved it"
    assert {"service_account", "pod_uid", "artifact", "node", "revision"} <= granted[0].keys()
    assert "eyJ" not in repr([record.__dict__ for record in caplog.records])


def test_a_bare_pod_mounts_what_was_recorded_for_itself(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        made = await broker.cluster.create(
            PODS, {"metadata": {"name": "bare", "namespace": "team-a"}, "spec": {"nodeName": "n1"}}
        )
        uid = str(made["metadata"]["uid"])  # type: ignore[index]
        identity = PodIdentity(namespace="team-a", name="bare", uid=uid, service_account="default")
        token = cluster.account("default", "team-a", "prestage.dev", pod_name="bare", pod_uid=uid, node_name="n1")
        request = MountsRequest(pod=identity, pod_token=token, models=[WantedMount(alias="llama", ref=REF)])
        await refused(broker, Busy, "NotResolved", request)
        resolved = await broker.planner.resolve(wish(REF, uid=uid, hash_="-"))
        await broker.shelved()
        [one] = (await broker.node("n1").mounts(request)).models
        assert one.artifact == resolved.artifact

    play(cluster, tmp_path, test)


def test_a_staged_model_of_others_needs_a_grant_that_still_stands(cluster: Cluster, tmp_path: Path) -> None:
    cluster.model("team-b", "support", source="hf://org/public", revision="main")
    cluster.grant("team-b", "for-a", to="support", namespace="team-a", service_account="server")
    theirs = WantedMount(alias="support", ref="ref:team-b/support")

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        made = await resolved_for(broker, pod, "ref:team-b/support", "support", service_account="server")
        assert made.namespace == "team-b"
        [one] = (await mounted(broker, pod, theirs)).models
        assert (one.artifact, one.rule, one.repo) == (made.artifact, "StagedModelGrant team-b/for-a", "org/public")
        other = await broker.pod("team-a", "n1", name="pod-2", account="other")
        assert "team-a/other" in await refused(broker, Denied, "NoGrant", asks(other, theirs))
        by_digest = WantedMount(alias="support", ref="ref:team-b/support", artifact=made.artifact)
        await refused(broker, Denied, "NoGrant", asks(other, by_digest))
        await cluster.delete(STAGED_MODEL_GRANTS, "for-a", namespace="team-b")
        await broker.shelved()
        await refused(broker, Denied, "NoGrant", asks(pod, theirs))
        await refused(broker, Denied, "NoGrant", asks(pod, by_digest))
        owner = await broker.pod("team-b", "n1", name="own")
        named = WantedMount(alias="support", ref="ref:support")
        await resolved_for(broker, owner, "ref:support", "support")
        [mine] = (await mounted(broker, owner, named)).models
        assert mine.rule == "StagedModel team-b/support"

    play(cluster, tmp_path, test)


def test_all_models_of_a_pod_or_none(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    repository(hub, "org/second", dict(MODEL))

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        await resolved_for(broker, pod)
        both = (WantedMount(alias="llama", ref=REF), WantedMount(alias="b", ref="hf://org/second@main"))
        await refused(broker, Busy, "NotResolved", asks(pod, *both))
        await resolved_for(broker, pod, "hf://org/second@main", "b")
        await broker.shelved(2)
        assert [one.alias for one in (await mounted(broker, pod, *both)).models] == ["llama", "b"]
        await refused(broker, Misconfigured, "TooManyModels", asks(pod))
        await refused(broker, Misconfigured, "TooManyModels", asks(pod, *[both[0]] * 33))
        await refused(broker, Misconfigured, "NoRef", asks(pod, WantedMount(alias="../x", ref=REF)))

    play(cluster, tmp_path, test)


def test_an_adapter_is_refused_beside_models_that_are_not_its_base(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    for name in ("org/other", "org/lora"):
        repository(hub, name, {**MODEL, "config.json": name.encode()})
    cluster.model("team-a", "base", source="hf://org/public", revision="main")
    base = {"type": "Adapter", "baseRef": {"name": "base"}}
    cluster.model("team-a", "lora", source="hf://org/lora", revision="main", **base)
    refs = {"base": "ref:base", "same": REF, "other": "hf://org/other@main", "lora": "ref:lora"}
    wanted = {alias: WantedMount(alias=alias, ref=ref) for alias, ref in refs.items()}

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        for alias, ref in refs.items():
            await resolved_for(broker, pod, ref, alias)
        await broker.shelved(3)
        for fine in (["lora"], ["lora", "base"], ["lora", "same"], ["lora", "other", "base"], ["other"]):
            assert len((await mounted(broker, pod, *(wanted[one] for one in fine))).models) == len(fine)
        said = await refused(broker, Misconfigured, "OtherBase", asks(pod, wanted["other"], wanted["lora"]))
        assert "StagedModel team-a/base" in said

    play(cluster, tmp_path, test)
