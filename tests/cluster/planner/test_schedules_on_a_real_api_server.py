"""What is declared for later on a real API server: staged before its time, through a planner that dies; late ones say so."""

from __future__ import annotations

import asyncio
import datetime
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import pytest
from planning.real import digest_of, is_there, listed, make_node, make_replica_set, place, stages, until

from cluster.apiserver import ApiServer
from prestage.kube.client import KubeApi
from prestage.kube.ports import Object, metadata_of, uid_of
from prestage.kube.resources import DEPLOYMENTS, EVENTS, NAMESPACES, NODE_CACHES, NODES, STAGING_SCHEDULES

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
_AHEAD_S = 40.0  # of a window: a busy machine takes its time to declare, plan and stage
_BEGAN = datetime.datetime.now(datetime.UTC)
_JOB_H, _WEB_H = 6, 9
WEB, JOB, MODEL = "hf://org/web@main", "hf://org/job@main", "ref:llama"


def template(ref: str) -> dict[str, object]:
    metadata = {"labels": {"app": "web"}, "annotations": {"model.prestage.dev/llama": ref}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "none"}], "restartPolicy": "Always"}}


def deployment(namespace: str) -> str:
    """With nobody running: it is wanted later today, for two."""
    said = {"ready-schedule": f"0 {in_tokyo(_WEB_H).hour} * * *", "time-zone": "Asia/Tokyo", "duration": "10h", "replicas": "2"}
    metadata = {"name": "web", "namespace": namespace, "annotations": {f"prestage.dev/{key}": text for key, text in said.items()}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template(WEB)}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def cron_job(namespace: str, *, suspend: bool = False) -> str:
    pods = template(JOB)
    pods = {**pods, "spec": {**cast("dict[str, object]", pods["spec"]), "restartPolicy": "Never"}}
    when = {"schedule": f"0 {in_tokyo(_JOB_H).hour} * * *", "timeZone": "Asia/Tokyo"}
    spec = {**when, "suspend": suspend, "jobTemplate": {"spec": {"template": pods}}}
    metadata = {"name": "nightly", "namespace": namespace}
    return json.dumps({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec})


def ours(kind: str, name: str, namespace: str, spec: dict[str, object]) -> str:
    metadata = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "prestage.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})


def schedule(namespace: str, node: str, ready_by: datetime.datetime, **more: object) -> str:
    selector = {"selector": {"matchLabels": {"kubernetes.io/hostname": node}}}
    window = {"name": "launch", "readyBy": ready_by.strftime("%Y-%m-%dT%H:%M:%SZ"), "duration": "1m"}
    artifacts = [{"name": "weights", "type": "Model", "modelRef": {"name": "llama"}}]
    return ours("StagingSchedule", "launch", namespace, {"artifacts": artifacts, "nodes": selector, "windows": [window], **more})


async def report(api: KubeApi, node: str, *warm: str, rate: str = "1Mi") -> None:
    """As the node's agent does."""
    held = [{"digest": one, "state": "Warm"} for one in warm]
    status = {"budget": "1Mi", "used": "0", "originRateP10": rate, "artifacts": held}
    body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}, "status": status}
    await api.apply(NODE_CACHES, body, manager="prestage-agent", subresource="status")


async def deadlines(api: KubeApi, node: str) -> dict[str, str | None]:
    """Digest to readyBy of what is staged."""
    spec = cast("dict[str, object]", (await api.get(NODE_CACHES, node))["spec"])
    entries = cast("list[dict[str, str]]", spec.get("artifacts") or [])
    return {one["digest"]: one.get("readyBy") for one in entries if one["action"] == "Stage"}


async def status_of(api: KubeApi, namespace: str) -> dict[str, object]:
    return cast("dict[str, object]", (await api.get(STAGING_SCHEDULES, "launch", namespace=namespace)).get("status") or {})


def condition(status: dict[str, object], kind: str) -> tuple[str, str]:
    found = [one for one in cast("list[dict[str, str]]", status.get("conditions") or []) if one["type"] == kind]
    return (found[0]["status"], found[0]["reason"]) if found else ("", "")


def in_tokyo(hours: int) -> datetime.datetime:
    """So many whole hours after the one that the test began in: a window never open already, whatever the time of day."""
    return _BEGAN.astimezone(ZoneInfo("Asia/Tokyo")) + datetime.timedelta(hours=hours)


def to_the_hour(hours: int) -> str:
    return in_tokyo(hours).astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:00:00Z")


def seconds_from_now(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Scene:
    """One node and one namespace, of a real API server, with a planner started by the test."""

    server: ApiServer
    api: KubeApi
    namespace: str
    node: str

    async def apply(self, *manifests: str) -> None:
        for manifest in manifests:
            await asyncio.to_thread(self.server.kubectl, "apply", "-f", "-", stdin=manifest)

    async def declare(self, ready_by: datetime.datetime) -> None:
        await self.api.patch(NAMESPACES, self.namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
        await make_node(self.api, self.node)
        await self.api.patch(NODES, self.node, {"metadata": {"labels": {"kubernetes.io/hostname": self.node}}})
        model = ours("StagedModel", "llama", self.namespace, {"source": "hf://org/llama", "revision": "main"})
        declared = (deployment(self.namespace), cron_job(self.namespace), model)
        await self.apply(*declared, schedule(self.namespace, self.node, ready_by))
        web = await self.api.get(DEPLOYMENTS, "web", namespace=self.namespace)
        await make_replica_set(self.api, self.namespace, "abc", ref=WEB, deployment_uid=uid_of(web))

    async def all_staged_early(self, ready_by: datetime.datetime, log: Path) -> None:
        await until(partial(is_there, self.api, NODE_CACHES, self.node), log=log)
        await report(self.api, self.node)
        await until(partial(stages, self.api, self.node, digest_of(MODEL, 1)), log=log)  # the soonest first: one link
        for count in (2, 3):  # the rest early, for the link is idle: soon after each other, or at once
            await report(self.api, self.node, *(await listed(self.api, self.node) or set()))
            await until(partial(_staged, self.api, self.node, count), log=log)
        assert await listed(self.api, self.node) == {digest_of(ref, 1) for ref in (WEB, JOB, MODEL)}
        by = await deadlines(self.api, self.node)
        assert by[digest_of(MODEL, 1)] == ready_by.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert {ref: by[digest_of(ref, 1)] for ref in (WEB, JOB)} == {WEB: to_the_hour(_WEB_H), JOB: to_the_hour(_JOB_H)}
        await until(partial(_foretold, self.api, self.namespace, ready_by), log=log)

    async def generation(self) -> object:
        return metadata_of(await self.api.get(NODE_CACHES, self.node))["generation"]

    async def history(self) -> list[dict[str, object]]:
        return cast("list[dict[str, object]]", (await status_of(self.api, self.namespace)).get("history") or [])

    async def said(self, kind: str) -> tuple[str, str]:
        return condition(await status_of(self.api, self.namespace), kind)

    async def told_late(self) -> list[Object]:
        events = (await self.api.page(EVENTS)).items
        return [one for one in events if one["reason"] == "Late" and metadata_of(one)["namespace"] == self.namespace]

    async def suspend(self, ready_by: datetime.datetime, log: Path) -> None:
        """While it stages: nothing more of it, and the schedule says so."""
        await self.apply(cron_job(self.namespace, suspend=True))
        await until(partial(_staged_without, self.api, self.node, digest_of(JOB, 1)), log=log)
        await self.apply(schedule(self.namespace, self.node, ready_by, suspend=True))

        async def suspended() -> bool:
            return await self.said("Ready") == ("False", "Suspended")

        await until(suspended, log=log)

    async def too_late(self, log: Path) -> None:
        """Edited to what cannot be met: it says so before it is late."""
        late = seconds_from_now(_AHEAD_S).replace(microsecond=0)
        await report(self.api, self.node, rate="10")
        await self.apply(schedule(self.namespace, self.node, late))
        await until(self.told_late, log=log)
        assert datetime.datetime.now(datetime.UTC) < late
        [event] = [one for one in await self.told_late() if cast("dict[str, str]", one["regarding"])["kind"] == "StagingSchedule"]
        assert "because 1 kB take longer than what is left" in str(event["note"])

        async def told_in_status() -> bool:
            return (await self.said("OnTime"))[0] == "False"

        await until(told_in_status, log=log)  # events come first


async def live(server: ApiServer, namespace: str, folder: Path) -> None:
    async with asyncio.timeout(200), place(server, folder, namespace) as (here, api, broker):
        scene = Scene(server, api, namespace, f"{namespace}-n1")
        ready_by = seconds_from_now(_AHEAD_S).replace(microsecond=0)
        await scene.declare(ready_by)
        with here.planner("first") as log:
            await scene.all_staged_early(ready_by, log)
            here.kill("first")  # it may be away when the window begins
        before, asked = await scene.generation(), len(broker.asked)
        with here.planner("second") as log:
            await report(api, scene.node, *(await listed(api, scene.node) or set()))
            await until(scene.history, log=log)
            [entry] = await scene.history()
            assert (entry["readyBy"], entry["lateBy"]) == (ready_by.strftime("%Y-%m-%dT%H:%M:%SZ"), "0s")
            assert "next" not in await status_of(api, namespace)
            assert await scene.said("Ready") == ("True", "Warm")
            assert len(broker.asked) == asked
            assert await scene.generation() == before  # the plan is what it was
            await scene.suspend(ready_by, log)
            await scene.too_late(log)
        assert "status_not_written" not in await asyncio.to_thread(log.read_text)


def test_what_is_declared_is_staged_before_its_time_through_a_planner_that_dies(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    asyncio.run(live(api_with_kinds, namespace, tmp_path))


async def _staged_without(api: KubeApi, node: str, digest: str) -> bool:
    return digest not in await deadlines(api, node)


async def _staged(api: KubeApi, node: str, count: int) -> bool:
    return len(await listed(api, node) or ()) >= count


async def _foretold(api: KubeApi, namespace: str, ready_by: datetime.datetime) -> bool:
    """That it will be in time."""
    coming = cast("dict[str, str]", (await status_of(api, namespace)).get("next") or {})
    return coming.get("predictedReadyAt", "9") <= ready_by.strftime("%Y-%m-%dT%H:%M:%SZ") and coming.get("lateBy") == "0s"
