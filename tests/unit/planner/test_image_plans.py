"""The whole planner on an API server in memory, with images: what is told to which node, and what the schedule says of it."""

from __future__ import annotations

import asyncio
from typing import cast

from planning.cluster import Cluster, running, until
from planning.objects import digest, namespace, node, schedule

from prestage.kube.ports import Object
from prestage.kube.resources import NODE_CACHES, STAGING_SCHEDULES

ENGINE = "registry.example/vllm:0.33"
IMAGE = digest(f"oci://{ENGINE}")
IMAGES = {"runtime": "2.1.9", "snapshotter": "overlayfs", "budget": "1Mi", "rateP10": "1000"}


def of_an_image() -> Object:
    made = schedule("engine", {"name": "always"})
    spec = cast("dict[str, object]", made["spec"])
    spec["artifacts"] = [{"name": "engine", "type": "Image", "image": ENGINE, "pullSecretRef": {"name": "regcred"}}]
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
