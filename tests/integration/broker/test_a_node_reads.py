"""The node's own origin over a real broker over real origins: every byte of a gated repository and of a bucket."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from brokers import Broker, Cluster, play, wish
from offers import MODEL, make_bucket, put_object, repository

from prestage.api.brokerage import ResolveRequest
from prestage.cacher.digests import ArtifactId
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import ArtifactRef
from prestage.node.broker_origin import Asking, BrokerOrigin, Senders
from servers.hub import Hub
from servers.versitygw import Versitygw


def read_all(broker: Broker, folder: Path, artifact: str, asking: Asking) -> dict[str, bytes]:
    """As a stage does: the manifest, then ranges of each file through the engine's source. In a thread."""
    senders = Senders(NetConfig(), AddressPolicy.tenant(refuse_private=True), folder)
    origin = BrokerOrigin(ArtifactRef(ArtifactId(artifact)), asking, senders, threading.Event())
    try:
        manifest = origin.resolve(Selection())
        found = {}
        for file in manifest.files:
            buffer = bytearray(file.size_bytes)
            source = OriginSource(origin, origin.client, manifest, file, "lane")
            for start in range(0, file.size_bytes, 100_000):
                stop = min(start + 100_000, file.size_bytes)
                stream = source.open(start, stop)
                assert stream.readinto(memoryview(buffer)[start:stop]) == stop - start
                stream.close()
            found[file.path] = bytes(buffer)
        return found
    finally:
        senders.close()


async def staged(broker: Broker, folder: Path, request: ResolveRequest) -> dict[str, bytes]:
    resolved = await broker.planner.resolve(request)
    await broker.plan("n1", resolved.artifact)
    asking = Asking(broker.node("n1"), asyncio.get_running_loop())
    return await asyncio.to_thread(read_all, broker, folder, resolved.artifact, asking)


def test_a_node_reads_a_gated_repository_without_its_token(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    repository(hub, "meta/gated", dict(MODEL), gated=True, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-a", "hf-token", HF_TOKEN="hf_ok")

    async def test(broker: Broker) -> None:
        assert await staged(broker, tmp_path, wish("hf://meta/gated", credentials="hf-token")) == MODEL

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_a_node_reads_a_bucket_without_its_keys(cluster: Cluster, versitygw: Versitygw, tmp_path: Path) -> None:
    make_bucket(versitygw, "node-reads")
    for path, content in MODEL.items():
        put_object(versitygw, "node-reads", f"m/{path}", content)
    cluster.origin("s3", "S3", endpoint=versitygw.url, pathStyle=True)
    cluster.secret("team-a", "keys", AWS_ACCESS_KEY_ID=versitygw.access_key, AWS_SECRET_ACCESS_KEY=versitygw.secret_key)

    async def test(broker: Broker) -> None:
        assert await staged(broker, tmp_path, wish("s3://node-reads/m/", credentials="keys")) == MODEL

    play(cluster, tmp_path, test)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.namespace("team-a")
    return made
