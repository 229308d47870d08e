"""CapacityBuffers on a real API server that checks their schema, by a planner with its own rights; first without the kind."""

from __future__ import annotations

import asyncio
import datetime
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from planning.real import account, is_there, make_node, place, until

from cluster.apiserver import ApiServer
from prestage.control.capacity.asking import Asking
from prestage.control.capacity.buffers import POD_TEMPLATES, VERSIONS
from prestage.control.capacity.rbac import RULES
from prestage.control.capacity.told import Capacity, Served
from prestage.control.demand.world import World
from prestage.control.planning.board import Board, Posted
from prestage.kube.client import KubeApi
from prestage.kube.errors import Missing
from prestage.kube.ports import Object
from prestage.kube.resources import NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STAGING_SCHEDULES
from prestage.kube.settings import KubeSettings

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
BUFFERS = VERSIONS[0]
OURS = "prestage.dev/v1alpha1"
CRD = Path(__file__).resolve().parents[1] / "capacitybuffers.yaml"


def install(server: ApiServer) -> None:
    server.kubectl("apply", "-f", str(CRD))
    server.kubectl("wait", "--for=condition=Established", "crd/capacitybuffers.autoscaling.x-k8s.io", "--timeout=60s")


async def without_and_with_the_kind(server: ApiServer, kubeconfig: Path) -> None:
    """In this process, so that it looks more often than once a minute."""
    async with await KubeApi.connect(KubeSettings(kubeconfig=kubeconfig)) as api:
        board, capacity = Board(), Capacity()
        board.post(Posted())
        work = asyncio.create_task(Asking(api, World(api), board, capacity, looking_s=0.2).run())
        try:
            await until(lambda: asyncio.sleep(0, capacity.served is Served.ABSENT))
            await asyncio.to_thread(install, server)
            await until(lambda: asyncio.sleep(0, capacity.served is Served.YES))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def declare(api: KubeApi, namespace: str, name: str, begins: datetime.datetime) -> None:
    windows = [{"name": "launch", "readyBy": begins.strftime("%Y-%m-%dT%H:%M:%SZ"), "duration": "1h"}]
    spec = {
        "artifacts": [{"name": "weights", "modelRef": {"name": "llama"}}],
        "nodes": {"selector": {"matchLabels": {"pool": namespace}}, "count": 2},
        "windows": windows,
        "capacity": {"type": "CapacityBuffer", "bootTime": "2m"},
    }
    metadata = {"name": name, "namespace": namespace}
    await api.create(STAGING_SCHEDULES, {"apiVersion": OURS, "kind": "StagingSchedule", "metadata": metadata, "spec": spec})


async def status_of(api: KubeApi, namespace: str, name: str) -> dict[str, object]:
    found = await api.get(STAGING_SCHEDULES, name, namespace=namespace)
    return cast("dict[str, object]", found.get("status") or {})


async def reason(api: KubeApi, namespace: str, name: str, kind: str) -> str:
    conditions = cast("list[dict[str, str]]", (await status_of(api, namespace, name)).get("conditions") or [])
    return next((one["reason"] for one in conditions if one["type"] == kind), "")


async def says(api: KubeApi, namespace: str, name: str, kind: str, wanted: str) -> bool:
    return await reason(api, namespace, name, kind) == wanted


async def buffer(api: KubeApi, namespace: str, name: str) -> Object | None:
    try:
        return await api.get(BUFFERS, name, namespace=namespace)
    except Missing:
        return None


async def boots(api: KubeApi, namespace: str, name: str) -> object:
    return cast("dict[str, object]", (await status_of(api, namespace, name)).get("capacity") or {}).get("boots")


async def a_node_boots(api: KubeApi, node: str, pool: str) -> None:
    """As the autoscaler and its agent make one."""
    await make_node(api, node)
    await api.patch(NODES, node, {"metadata": {"labels": {"pool": pool}}})
    await until(partial(is_there, api, NODE_CACHES, node))
    status = {"budget": "1Gi", "used": "0", "originRateP10": "1Mi"}
    body = {"apiVersion": OURS, "kind": "NodeCache", "metadata": {"name": node}, "status": status}
    await api.apply(NODE_CACHES, body, manager="prestage-agent", subresource="status")


async def live(server: ApiServer, namespace: str, folder: Path) -> None:
    asked = partial(place, server, folder, namespace, rules=RULES, flags=("--capacity-buffers",))
    async with asyncio.timeout(150), asked() as (here, api, _):
        await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
        model = {"metadata": {"name": "llama", "namespace": namespace}, "spec": {"source": "hf://org/llama", "revision": "main"}}
        await api.create(STAGED_MODELS, {"apiVersion": OURS, "kind": "StagedModel", **model})
        foreign = {"metadata": {"name": "prestage-taken", "namespace": namespace}, "spec": {"replicas": 7}}
        await api.create(BUFFERS, {"apiVersion": BUFFERS.group_version, "kind": BUFFERS.kind, **foreign})
        now = datetime.datetime.now(datetime.UTC)
        await declare(api, namespace, "soon", now + datetime.timedelta(seconds=60))
        await declare(api, namespace, "later", now + datetime.timedelta(hours=2))
        with here.planner("first") as log:
            await until(partial(says, api, namespace, "soon", "Capacity", "Asked"), log=log)
            made = await buffer(api, namespace, "prestage-soon")
            assert made is not None
            spec = cast("dict[str, object]", made["spec"])
            assert (spec["replicas"], spec["provisioningStrategy"]) == (2, "buffer.x-k8s.io/active-capacity")
            template = str(cast("dict[str, str]", spec["podTemplateRef"])["name"])
            assert "podAntiAffinity" in str(await api.get(POD_TEMPLATES, template, namespace=namespace))
            await until(partial(says, api, namespace, "soon", "OnTime", "Booting"), log=log)
            assert await reason(api, namespace, "later", "Capacity") == "Waiting"
            assert await buffer(api, namespace, "prestage-later") is None
            await a_node_boots(api, f"{namespace}-n1", namespace)
            await until(partial(boots, api, namespace, "soon"), log=log)
            await declare(api, namespace, "taken", now + datetime.timedelta(seconds=60))
            await api.patch(STAGING_SCHEDULES, "soon", {"spec": {"suspend": True}}, namespace=namespace)
            await until(partial(_gone, api, namespace), log=log)
            await until(partial(says, api, namespace, "taken", "Capacity", "NotAsked"), log=log)
            kept = await buffer(api, namespace, "prestage-taken")
            assert kept is not None
            assert cast("dict[str, object]", kept["spec"])["replicas"] == 7
        assert "nodes_not_asked_for" not in await asyncio.to_thread(log.read_text)
        await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": None}}})  # others plan here too


async def _gone(api: KubeApi, namespace: str) -> bool:
    return await buffer(api, namespace, "prestage-soon") is None


def test_nodes_are_asked_for_counted_on_and_let_go_and_what_is_not_ours_stays(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "quick").mkdir()
    kubeconfig = account(api_with_kinds, tmp_path / "quick", namespace, RULES)
    asyncio.run(without_and_with_the_kind(api_with_kinds, kubeconfig))
    asyncio.run(live(api_with_kinds, namespace, tmp_path))
