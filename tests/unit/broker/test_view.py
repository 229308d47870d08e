"""What the broker sees of the cluster: followed, and asked for where others may have seen more than it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from brokers import Cluster

from prestage.api.artifacts import TemplateUse
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.control.broker.records import Records, artifact_object
from prestage.control.broker.refusals import No
from prestage.control.broker.shelf import Shelf
from prestage.control.broker.sources import Trace
from prestage.control.broker.view import View
from prestage.kube.answers import Backoff
from prestage.kube.following import Pace
from prestage.kube.resources import ARTIFACTS, CACHE_POLICIES, NAMESPACES, ORIGINS, STAGED_MODEL_GRANTS, STAGED_MODELS

MANIFEST = manifest_of("hf:https://h/o/n", "", [FileEntry("a", 1)])
USE = TemplateUse(uid="u", hash="h", alias="llama", ref="hf://o/n")


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def test_what_was_not_seen_yet_is_asked_for() -> None:
    cluster = Cluster()
    cluster.namespace("team-a")
    cluster.model("team-a", "llama", source="hf://o/n")

    async def test() -> None:
        view = View(cluster)  # nobody follows: it has seen nothing at all
        await Records(cluster).write(MANIFEST, "team-a", "hf://o/n", Trace(ref="hf://o/n"), [USE])
        await view.check_enabled("team-a")
        for wrong in ("team-b", "../team-a"):
            with pytest.raises(No, match="NotEnabled"):
                await view.check_enabled(wrong)
        assert [one.namespace for one in await view.holders(MANIFEST.artifact)] == ["team-a"]
        assert await view.holders("sha256:" + "0" * 64) == ()
        found = await view.artifact("team-a", MANIFEST.artifact, "hf://o/n")
        assert found is not None
        assert found.digest == MANIFEST.artifact
        assert await view.artifact("team-a", MANIFEST.artifact, "hf://o/other") is None
        assert await view.artifact("team-b", MANIFEST.artifact, "hf://o/n") is None
        assert await view.fresh_model("team-a", "none") is None
        assert view.model("team-a", "llama") is None
        fresh = await view.fresh_model("team-a", "llama")
        assert fresh is not None
        assert fresh.spec.source == "hf://o/n"

    run(test())


def test_it_follows_what_changes_and_what_cannot_be_read_opens_nothing() -> None:
    cluster = Cluster()
    cluster.namespace("team-a")
    cluster.origin("s3", "S3")
    cluster.policy("wall", [("s3", "*")])
    cluster.grant("team-a", "g", to="m", namespace="team-b")

    async def test() -> None:
        view = View(cluster, pace=Pace(Backoff(0.01, 0.05), (5.0, 6.0)))
        following = asyncio.create_task(view.run())
        await view.synced.wait()
        assert [one.metadata.name for one in view.origins()] == ["s3"]
        assert [one.metadata.name for one in view.policies()] == ["wall"]
        assert [one.metadata.name for one in view.grants("team-a", "m", "team-b")] == ["g"]
        for other in (("team-b", "m", "team-b"), ("team-a", "n", "team-b"), ("team-a", "m", "team-c")):
            assert view.grants(*other) == []
        await Records(cluster).write(MANIFEST, "team-a", "hf://o/n", Trace(ref="hf://o/n"), [USE])
        await until(lambda: view.shelf.recorded("team-a", "u", "h", "llama", "hf://o/n") is not None)
        await cluster.create(ORIGINS, {"metadata": {"name": "broken"}, "spec": {"type": "Tape"}})
        await cluster.create(STAGED_MODEL_GRANTS, {"metadata": {"name": "broken", "namespace": "team-a"}, "spec": {}})
        await cluster.create(STAGED_MODELS, {"metadata": {"name": "broken", "namespace": "team-a"}, "spec": {}})
        await cluster.create(CACHE_POLICIES, {"metadata": {"name": "broken"}, "spec": {"namespaceSelector": 1}})
        await until(lambda: _raises(view))
        assert [one.metadata.name for one in view.origins()] == ["s3"]
        assert [one.metadata.name for one in view.grants("team-a", "m", "team-b")] == ["g"]
        with pytest.raises(No, match="BrokenModel"):
            await view.fresh_model("team-a", "broken")
        name = MANIFEST.artifact.replace(":", "-")
        await cluster.delete(ARTIFACTS, name, namespace="team-a")
        await until(lambda: view.shelf.at("team-a", MANIFEST.artifact) is None)
        await cluster.patch(NAMESPACES, "team-a", {"metadata": {"labels": {"prestage.dev/enabled": None}}})
        await until(lambda: not view.labels("team-a"))
        with pytest.raises(No, match="NotEnabled"):
            await view.check_enabled("team-a")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(test())


def test_ten_thousand_objects_of_one_tenant_cost_the_others_nothing() -> None:
    cluster = Cluster()
    cluster.namespace("team-a")
    cluster.grant("team-a", "g", to="m", namespace="team-b")
    spec = {"from": [{"namespace": "team-c", "serviceAccount": "*"}], "to": [{"name": "m"}]}
    shelf = Shelf()

    async def test() -> None:
        for number in range(5_000):
            head = {"name": f"g{number}", "namespace": "team-a"}
            await cluster.create(STAGED_MODEL_GRANTS, {"metadata": head, "spec": spec})
            manifest = manifest_of("hf:https://h/o/n", "", [FileEntry("a", number)])
            shelf.put(artifact_object(manifest, "team-a", "hf://o/n", Trace(ref="hf://o/n")))
        view = View(cluster)
        following = asyncio.create_task(view.run())
        await view.synced.wait()
        began = time.process_time()
        for _ in range(10):
            assert len(view.grants("team-a", "m", "team-b")) == 1
            assert shelf.recorded("team-a", "u", "h", None, None) is None
            assert shelf.of("team-b") == ()
        assert (time.process_time() - began) / 10 < 0.05
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(test())


def _raises(view: View) -> bool:
    """A wall that cannot be read is one that nobody passes."""
    try:
        view.policies()
    except No as exc:
        return exc.refusal.code == "BrokenPolicy"
    return False


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)
