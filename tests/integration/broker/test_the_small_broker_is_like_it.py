"""The small broker of the node's tests (servers/broker.py) answers a node as the real one does: one suite over both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from brokers import Broker, Cluster, PodMade, play, wish
from brokers.fetching import fetched
from offers import MODEL, repository

from prestage.api.brokerage import FetchesRequest, MountsRequest, PodIdentity, WantedMount
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Denied
from prestage.cacher.manifest import parse_manifest
from prestage.wire.broker_client import BrokerClient, BrokerSettings, refusal_of
from servers import broker as small
from servers.hostile import Hostile
from servers.hub import Hub

REF = "hf://org/public@main"
FOREIGN = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class World:
    """`planned` is in the node's NodeCache, `other` is known and is not; `pod` is bound to the node and may mount `planned`."""

    client: BrokerClient
    stranger: BrokerClient
    planned: str
    other: str
    pod: PodMade


async def conforms(world: World) -> None:
    client, request = world.client, _request(world.pod)
    manifest = parse_manifest((await client.manifest(world.planned)).manifest.encode(), ArtifactId(world.planned))
    sizes = {file.path: file.size_bytes for file in manifest.files}
    assert sizes == {path: len(content) for path, content in MODEL.items()}
    backwards = sorted(sizes, reverse=True)
    answer = await client.fetches(FetchesRequest(artifact=world.planned, paths=backwards))
    assert [one.path for one in answer.fetches] == backwards
    assert answer.authority == manifest.authority
    assert await fetched(answer, sizes) == MODEL
    for question in (client.manifest(world.other), client.fetches(FetchesRequest(artifact=world.other, paths=backwards))):
        assert await _code(question) == "NotInPlan"

    for artifact in (None, world.planned):
        told = await client.mounts(_with(request, artifact))
        [granted] = told.models
        assert (granted.alias, granted.artifact, granted.repo, granted.revision) == ("llama", world.planned, "org/public", "main")
        assert granted.rule
        assert time.time() < told.fresh_until <= told.valid_until
    assert await _code(client.mounts(_with(request, FOREIGN))) == "NoGrant"
    assert await _code(client.mounts(_moved(request, "team-b"))) is not None
    assert await _code(world.stranger.manifest(world.planned)) is not None


def _request(pod: PodMade) -> MountsRequest:
    return MountsRequest(pod=pod.identity, pod_token=pod.token, models=[WantedMount(alias="llama", ref=REF)])


def _with(request: MountsRequest, artifact: str | None) -> MountsRequest:
    models = [WantedMount(alias="llama", ref=REF, artifact=artifact)]
    return MountsRequest(pod=request.pod, pod_token=request.pod_token, models=models)


def _moved(request: MountsRequest, namespace: str) -> MountsRequest:
    pod = request.pod
    moved = PodIdentity(namespace=namespace, name=pod.name, uid=pod.uid, service_account=pod.service_account)
    return MountsRequest(pod=moved, pod_token=request.pod_token, models=request.models)


async def _code(question: object) -> str | None:
    """Of the refusal, which is Denied."""
    assert asyncio.iscoroutine(question)
    with pytest.raises(Denied) as found:
        await question
    refusal = refusal_of(found.value)
    return refusal.code if refusal else None


def real(hub: Hub, tmp_path: Path) -> None:
    cluster = Cluster()
    for name in ("team-a", "team-b"):
        cluster.namespace(name)
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    for name in ("public", "second"):
        repository(hub, f"org/{name}", dict(MODEL) if name == "public" else {"config.json": b"{}"})

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        artifacts = []
        for alias, ref in (("llama", REF), ("second", "hf://org/second@main")):
            asked = wish(ref, uid=pod.template.uid, hash_=pod.template.hash, alias=alias)
            artifacts.append((await broker.planner.resolve(asked)).artifact)
        await broker.shelved(2)
        await broker.plan("n1", artifacts[0])
        stranger = broker.client("nobody's token")
        await conforms(World(broker.node("n1"), stranger, artifacts[0], artifacts[1], pod))

    play(cluster, tmp_path, test)


def fake(hub: Hub, tmp_path: Path) -> None:
    assert hub.endpoint
    with Hostile() as origin, small.Broker(tmp_path, origin) as broker:
        planned, other = broker.put("public", MODEL), broker.put("second", {"config.json": b"{}"})
        broker.grant("team-a", REF, planned)
        broker.plan = {planned.artifact}
        identity = PodIdentity(namespace="team-a", name="pod-1", uid="uid-1", service_account="server")
        pod = PodMade(identity, "pod-token", wish(REF).template)
        wrong = tmp_path / "wrong"
        wrong.write_text("nobody's token")

        async def test() -> None:
            client = BrokerClient(BrokerSettings(broker.url, broker.token, broker.ca, 30.0))
            stranger = BrokerClient(BrokerSettings(broker.url, wrong, broker.ca, 30.0))
            try:
                await conforms(World(client, stranger, planned.artifact, other.artifact, pod))
            finally:
                await client.close()
                await stranger.close()

        asyncio.run(test())


@pytest.mark.parametrize("played", [real, fake])
def test_a_node_cannot_tell_them_apart(played: Callable[[Hub, Path], None], hub: Hub, tmp_path: Path) -> None:
    played(hub, tmp_path)
