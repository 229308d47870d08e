"""The whole planner on an API server in memory, with images: what is told to which node, and what the schedule says of it."""

from __future__ import annotations

import asyncio
import datetime
import logging
from dataclasses import dataclass, field, replace
from typing import Final, cast

import msgspec
import pytest
from planning.cluster import Cluster, running, until
from planning.objects import RESOURCES, digest, namespace, node, schedule
from prometheus_client import generate_latest

from prestage.api.brokerage import Refusal
from prestage.api.nodes import ErrorClass, NodeCache
from prestage.api.reading import read
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Misconfigured
from prestage.images.containerd.setup import Setup
from prestage.images.room import Disk
from prestage.images.shelf import ShelfRow
from prestage.kube.ports import Object
from prestage.kube.resources import EVENTS, NODE_CACHES, STAGING_SCHEDULES
from prestage.node.images.deciding import LINGER_S, Deed, ImagePlan, Release, Scene, Stage, decide, image_plan, unnamed
from prestage.node.images.reporting import ImagesLook, Way, status_of
from prestage.node.reporting import IMAGES_MANAGER
from prestage.wire.broker_client import Refused

ENGINE = "registry.example/vllm:0.33"
IMAGE = digest(f"oci://{ENGINE}")
IMAGES = {"runtime": "2.1.9", "snapshotter": "overlayfs", "budget": "1Mi", "rateP10": "1000"}


def of_an_image(image: str = ENGINE) -> Object:
    made = schedule("engine", {"name": "always"})
    spec = cast("dict[str, object]", made["spec"])
    spec["artifacts"] = [{"name": "engine", "type": "Image", "image": image, "pullSecretRef": {"name": "regcred"}}]
    return made


async def entries(cluster: Cluster, name: str) -> list[tuple[object, object, object]]:
    found = await cluster.find(NODE_CACHES, name)
    spec = cast("dict[str, object]", found["spec"]) if found is not None else {}
    rows = cast("list[dict[str, object]]", spec.get("artifacts") or [])
    return [(one["digest"], one.get("type", "Model"), one["action"]) for one in rows]


async def said(cluster: Cluster) -> tuple[str, dict[str, object]]:
    """The schedule's reason, and what it says of its one artifact."""
    found = await cluster.find(STAGING_SCHEDULES, "engine", "team")
    status = cast("dict[str, object]", (found or {}).get("status") or {})
    conditions = cast("list[dict[str, str]]", status.get("conditions") or [])
    rows = cast("list[dict[str, object]]", status.get("artifacts") or [{}])
    return next((one["reason"] for one in conditions if one["type"] == "Ready"), ""), rows[0]


def test_a_scheduled_image_is_told_to_the_nodes_that_stage_images_and_its_steps_are_said() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), node("n2"), of_an_image())
        async with running(cluster.planner()):
            await cluster.report("n1", images=IMAGES)
            await cluster.report("n2")
            staged = [(IMAGE, "Image", "Stage")]

            async def is_told() -> bool:
                return await entries(cluster, "n1") == staged

            async def says(reason: str, step: object) -> bool:
                now, row = await said(cluster)
                return (now, row.get("step")) == (reason, step)

            await until(is_told)
            assert await entries(cluster, "n2") == []
            [asked] = cluster.broker.asked
            assert (asked.ref, asked.platform, asked.pull_secrets) == (f"oci://{ENGINE}", "linux/amd64", ("regcred",))
            row = {"digest": IMAGE, "type": "Image", "state": "Staging", "step": "Unpack"}
            await cluster.report("n1", images=IMAGES, artifacts=[row])
            await until(lambda: says("TooFewNodes", "Unpack"))
            await cluster.report("n2", images=IMAGES, artifacts=[{**row, "state": "Warm", "step": "Unpack"}])
            await cluster.report("n1", images=IMAGES, artifacts=[{**row, "state": "Warm"}])
            await until(lambda: says("Warm", None))
            assert (await said(cluster))[1]["nodes"] == {"warm": 2, "wanted": 2}

    asyncio.run(steps())


def test_what_a_node_says_of_images_is_no_model_that_it_could_let_go() -> None:
    async def steps() -> None:
        cluster = Cluster()
        held = [{"digest": digest("other"), "type": "Image", "state": "Warm"}]
        await cluster.put(namespace(), node("n1"), of_an_image())
        async with running(cluster.planner()):
            await cluster.report("n1", images=IMAGES, artifacts=held)

            async def is_told() -> bool:
                return (IMAGE, "Image", "Stage") in await entries(cluster, "n1")

            await until(is_told)
            assert [one for one in await entries(cluster, "n1") if one[0] == digest("other")] == [], "named no more"

    asyncio.run(steps())


SETUP: Final = Setup("2.3.4", "overlayfs", "overlayfs", ("overlayfs",), (), None, "")
NOW: Final = 1_900_000_000.0
LEASE_S: Final = 86_400.0


@dataclass(slots=True)
class Container:
    """The `images` container of a node, without containerd: what it decides and what it says are its own."""

    cluster: Cluster
    name: str
    plan: ImagePlan = field(default_factory=ImagePlan)
    scene: Scene = field(default_factory=Scene)
    way: Way | None = None

    async def turn(self, now: float = NOW) -> list[Deed]:
        """Takes the NodeCache in, and says how it stands."""
        found = await self.cluster.find(NODE_CACHES, self.name)
        assert found is not None
        cache = read(NodeCache, found)
        self.plan = image_plan(cache.spec, generation=cache.metadata.generation, node_uid=cache.spec.node_uid)
        self.scene = replace(self.scene, unnamed_since=unnamed(self.plan, self.scene, now))
        deeds = decide(self.plan, self.scene, lease_s=LEASE_S, now=now)
        look = ImagesLook(SETUP, self.scene, self.way, Disk(10**9, 10**9), rates=(1000.0,))
        said = msgspec.to_builtins(status_of(self.plan, look, datetime.datetime.fromtimestamp(now, datetime.UTC)))
        body = {"metadata": {"name": self.name}, "status": said}
        await self.cluster.api.apply(NODE_CACHES, body, manager=IMAGES_MANAGER, force=True, subresource="status")
        return deeds

    async def told(self) -> list[Deed]:
        """What follows from its plan, once it has one."""
        found = list[Deed]()

        async def has_to_act() -> bool:
            found[:] = await self.turn()
            return bool(found)

        await until(has_to_act, seconds=30)
        return found


PRIVATE: Final = f"registry.example/team/engine@sha256:{'9' * 64}"


def test_a_private_image_alone_goes_from_its_schedule_to_a_nodes_containerd_and_nothing_of_the_cluster_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    artifact = ArtifactId(digest(f"oci://{PRIVATE}"))

    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), of_an_image(PRIVATE))
        planner = cluster.planner()
        async with running(planner):
            await cluster.report("n1")
            there = Container(cluster, "n1")
            assert await there.told() == [Stage(artifact)]
            there.scene = replace(there.scene, running=artifact)
            for way, step in ((Way("resolve"), "Resolve"), (Way("fetch", 400), "Download"), (Way("unpack", 1000), "Unpack")):
                there.way = way
                await there.turn()

                async def says(step: str = step) -> bool:
                    return (await said(cluster))[1].get("step") == step

                await until(says, seconds=30)
            row = ShelfRow(artifact, PRIVATE, "warm", 1000, NOW + LEASE_S)
            there.scene, there.way = replace(there.scene, running=None, shelf={artifact: row}), None
            assert await there.turn() == []

            async def is_warm() -> bool:
                return await said(cluster) == ("Warm", {"name": "engine", "nodes": {"warm": 1, "wanted": 1}})

            await until(is_warm, seconds=30)
            metrics = generate_latest(planner.meters.registry).decode()
            seen = [await cluster.api.page(one) for one in RESOURCES.values() if not one.namespaced]
            everybody = f"{[page.items for page in seen]}{metrics}{[vars(one) for one in caplog.records]}"
            assert not any(word in everybody for word in ("registry.example", "9" * 64, "regcred"))
            await cluster.api.delete(STAGING_SCHEDULES, "engine", namespace="team")
            await cluster.put(of_an_image("registry.example/another:1"))

            async def is_other() -> bool:
                names = {one[0] for one in await entries(cluster, "n1")}
                return digest("oci://registry.example/another:1") in names and artifact not in names

            await until(is_other, seconds=30)
            await there.turn()
            assert Release(artifact) not in await there.turn(NOW + LINGER_S - 1)
            assert Release(artifact) in await there.turn(NOW + LINGER_S)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(steps())


def refusing() -> Misconfigured:
    """As the broker's client raises it."""
    words = Refusal(
        error_class=ErrorClass.MISCONFIGURED,
        code="NoOriginForImages",
        message="no Origin is for it",
        hint="an operator makes one",
    )
    made = Misconfigured(words.message, hint=words.hint)
    made.__cause__ = Refused(words)
    return made


def test_an_image_that_no_operator_lets_be_staged_is_said_by_the_schedule_that_names_it() -> None:
    async def steps() -> None:
        cluster = Cluster()
        cluster.broker.refuse[f"oci://{ENGINE}"] = refusing()
        await cluster.put(namespace(), node("n1"), of_an_image())
        async with running(cluster.planner()):
            await cluster.report("n1", images=IMAGES)

            async def is_said() -> bool:
                notes = [str(one["note"]) for one in (await cluster.api.page(EVENTS)).items]
                return any(
                    f"image: oci://{ENGINE} (Misconfigured): no Origin is for it; an operator makes one" in note for note in notes
                )

            await until(is_said)
            assert await entries(cluster, "n1") == []

    asyncio.run(steps())
