"""A nearer hub stands for the one that an artifact was resolved at: it sends bytes, and what they must be it is not asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker, Cluster, play, wish
from brokers.staging import staging_node
from offers import MODEL, repository

from prestage.kube.resources import ORIGINS
from servers.hub import Hub

REF = "hf://meta/gated@main"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "mirror").mkdir()
    with Hub(tmp_path / "mirror") as running:
        yield running


@pytest.fixture
def cluster(hub: Hub, mirror: Hub) -> Cluster:
    made = Cluster()
    made.namespace("team-a")
    for one in (hub, mirror):
        repository(one, "meta/gated", dict(MODEL), gated=True, tokens=["hf_ok"])
    made.origin("hub", "HuggingFace", endpoint=hub.endpoint)
    made.origin("near", "HuggingFace", default=False, endpoint=mirror.endpoint, mirrorOf={"name": "hub"})
    made.secret("team-a", "hf", HF_TOKEN="hf_ok")
    made.node("n1", rack="one")
    made.node("n2")
    made.pool("one", {"rack": "one"}, {"hf://": "near"})
    return made


async def by_node(broker: Broker, node: str, folder: Path, artifact: str) -> dict[str, bytes]:
    with staging_node(node, folder) as one:
        return await one.stage(broker, artifact)


def asked(hub: Hub) -> int:
    """How often anything of the repository was asked for."""
    return sum("gated" in one.path for one in hub.log)


def weights(hub: Hub) -> int:
    """How often the large file's bytes were asked of its CDN."""
    return sum(one.path.startswith("/repos/") for one in hub.log)


def test_a_node_whose_pool_has_a_mirror_gets_all_from_there_and_others_do_not(
    cluster: Cluster, hub: Hub, mirror: Hub, tmp_path: Path
) -> None:
    async def test(broker: Broker) -> None:
        found = await broker.planner.resolve(wish(REF, credentials="hf"))
        await broker.shelved()
        assert asked(mirror) == 0, "it is not asked what anything is"
        assert await by_node(broker, "n1", tmp_path / "one", found.artifact) == MODEL
        assert (weights(hub), weights(mirror) > 0) == (0, True)
        assert await by_node(broker, "n2", tmp_path / "two", found.artifact) == MODEL
        assert weights(hub) > 0

    play(cluster, tmp_path, test)


def test_a_mirror_that_sends_something_else_is_found_out_and_its_origin_asked(
    cluster: Cluster, hub: Hub, mirror: Hub, tmp_path: Path
) -> None:
    path = mirror.root / "meta" / "gated" / "model.safetensors"
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[1000] ^= 1  # the listing and every header claim the digest that it had
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    async def test(broker: Broker) -> None:
        found = await broker.planner.resolve(wish(REF, credentials="hf"))
        await broker.shelved()
        assert await by_node(broker, "n1", tmp_path / "one", found.artifact) == MODEL
        assert weights(mirror) > 0
        assert weights(hub) > 0

    play(cluster, tmp_path, test)


def test_a_mirror_that_lacks_it_or_claims_another_revision_is_passed_over(
    cluster: Cluster, hub: Hub, mirror: Hub, tmp_path: Path
) -> None:
    repository(mirror, "meta/gated", {"config.json": b"{}"}, gated=True, tokens=["hf_ok"])  # another commit by then

    async def test(broker: Broker) -> None:
        found = await broker.planner.resolve(wish(REF, credentials="hf"))
        await broker.shelved()
        assert await by_node(broker, "n1", tmp_path / "one", found.artifact) == MODEL
        assert (weights(hub) > 0, weights(mirror)) == (True, 0)
        before = asked(mirror)
        assert await by_node(broker, "n1", tmp_path / "two", found.artifact) == MODEL
        assert asked(mirror) == before > 0, "for a minute"

    play(cluster, tmp_path, test)


def test_digests_of_an_origin_that_is_marked_so_are_believed_and_of_no_other(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    for name in ("org/first", "org/second", "org/third"):
        repository(hub, name, {**MODEL, "config.json": name.encode()})

    async def test(broker: Broker) -> None:
        found = []
        for number, name in enumerate(("org/first", "org/second", "org/third")):
            found.append(await broker.planner.resolve(wish(f"hf://{name}@main", alias=f"m{number}")))
        await broker.shelved(3)
        with staging_node("n2", tmp_path / "n2") as node:
            await node.stage(broker, found[0].artifact)
            before = weights(hub)
            got = await node.stage(broker, found[1].artifact)
            assert (got["config.json"], weights(hub) > before) == (b"org/second", True), "a claim: fetched and proved"
            marked = await cluster.get(ORIGINS, "hub")
            spec = marked["spec"]
            assert isinstance(spec, dict)
            await cluster.replace(ORIGINS, {**marked, "spec": {**spec, "trustDigests": True}})
            await asyncio.sleep(0.1)
            before = weights(hub)
            got = await node.stage(broker, found[2].artifact)
            assert got == {**MODEL, "config.json": b"org/third"}
            assert weights(hub) == before

    play(cluster, tmp_path, test)
