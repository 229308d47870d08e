"""With real controllers and a real node: what sleeps, a CronJob and an autoscaler's floor are staged before any pod."""

from __future__ import annotations

import asyncio
import datetime
import json
from functools import partial
from pathlib import Path

import pytest
from planning.real import digest_of, is_there, listed, place, until

from cluster.kinds import install
from cluster.node import PAUSE
from cluster.whole import Cluster
from prestage.kube.client import KubeApi
from prestage.kube.ports import Selection
from prestage.kube.resources import NAMESPACES, NODE_CACHES, PODS

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node")]
HOME, TEAM = "schedules-home", "schedules-team"
SLEEPS, FLOOR, RUN = "hf://org/sleeps@main", "hf://org/floor@main", "hf://org/run@main"


def pods(name: str, ref: str, **spec: object) -> dict[str, object]:
    container = {"name": "c", "image": PAUSE, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "600"]}
    metadata = {"labels": {"app": name}, "annotations": {"model.prestage.dev/llama": ref}}
    return {"metadata": metadata, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec}}


def deployment(name: str, ref: str, size: int, **annotations: str) -> str:
    said = {f"prestage.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}
    spec = {"replicas": size, "selector": {"matchLabels": {"app": name}}, "template": pods(name, ref)}
    metadata = {"name": name, "namespace": TEAM, "annotations": said}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def autoscaler() -> str:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "floor"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "metrics": [{"type": "Resource", "resource": cpu}]}
    metadata = {"name": "floor", "namespace": TEAM}
    return json.dumps({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec})


def cron_job(schedule: str, *, suspend: bool) -> str:
    template = pods("run", RUN, restartPolicy="Never")
    spec = {"schedule": schedule, "suspend": suspend, "jobTemplate": {"spec": {"template": template}}}
    metadata = {"name": "run", "namespace": TEAM}
    return json.dumps({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec})


async def report(api: KubeApi, node: str, *warm: str) -> None:
    """As the node's agent does."""
    held = [{"digest": digest_of(ref, 1), "state": "Warm"} for ref in warm]
    status = {"budget": "1Mi", "used": "0", "originRateP10": "1Mi", "artifacts": held}
    body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}, "status": status}
    await api.apply(NODE_CACHES, body, manager="prestage-agent", subresource="status")


async def pods_of(api: KubeApi) -> int:
    return len((await api.page(PODS, Selection(namespace=TEAM))).items)


def test_what_will_come_is_staged_before_its_pods(one_node: Cluster, tmp_path: Path) -> None:
    node = one_node.nodes[0].name

    async def kubectl(*words: str, stdin: str | None = None) -> None:
        await asyncio.to_thread(one_node.kubectl, *words, stdin=stdin)

    async def holds(api: KubeApi, ref: str) -> bool:
        return digest_of(ref, 1) in (await listed(api, node) or set())

    async def lacks(api: KubeApi, ref: str) -> bool:
        return not await holds(api, ref)

    async def test() -> None:
        await asyncio.to_thread(install, one_node.api)
        for name in (HOME, TEAM):
            await kubectl("create", "namespace", name)
        async with place(one_node.api, tmp_path, HOME) as (here, api, _):
            await api.patch(NAMESPACES, TEAM, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
            with here.planner("only") as log:
                await until(partial(is_there, api, NODE_CACHES, node), log=log)
                await report(api, node)
                later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
                when = f"{later.minute} {later.hour} * * *"
                await kubectl(
                    "apply", "-f", "-", stdin=deployment("sleeps", SLEEPS, 0, ready_schedule=when, duration="1h", replicas="1")
                )
                await until(partial(holds, api, SLEEPS), log=log)
                assert await pods_of(api) == 0
                await report(api, node, SLEEPS)

                await kubectl("apply", "-f", "-", stdin=cron_job(when, suspend=False))
                await until(partial(holds, api, RUN), log=log)
                assert await pods_of(api) == 0
                await kubectl("apply", "-f", "-", stdin=cron_job(when, suspend=True))
                await until(partial(lacks, api, RUN), log=log)

                # the floor keeps it wanted whatever its pods do; scaled to nothing by hand it is wanted no more
                await kubectl("apply", "-f", "-", stdin=deployment("floor", FLOOR, 1))
                await kubectl("apply", "-f", "-", stdin=autoscaler())
                await kubectl("wait", "-n", TEAM, "--for=condition=Available", "deployment/floor", "--timeout=60s")
                await report(api, node, SLEEPS, FLOOR)
                await until(partial(holds, api, FLOOR), log=log)
                await kubectl("scale", "-n", TEAM, "deployment/floor", "--replicas=0")
                await until(partial(lacks, api, FLOOR), log=log)
            assert "forbidden" not in (await asyncio.to_thread(log.read_text)).lower()  # its rights were enough
        await kubectl("delete", "namespace", HOME, TEAM, "--wait=false")  # the cluster is shared
        await kubectl("delete", "nodecache", node, "--timeout=60s")

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(bounded())
