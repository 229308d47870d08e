"""While a model is staged, on a real API server: schedules contradict each other, and the leader is killed."""

from __future__ import annotations

import asyncio
import datetime
import time
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from planning.real import Place, digest_of, holder_of, listed, make_node, place, until

from cluster.apiserver import ApiServer
from prestage.kube.client import KubeApi
from prestage.kube.ports import metadata_of
from prestage.kube.resources import NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STAGING_SCHEDULES

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
OURS = "prestage.dev/v1alpha1"
LLAMA = digest_of("ref:llama", 1)
HOUR = 3600.0


def moment(ahead_s: float) -> str:
    return datetime.datetime.fromtimestamp(round(time.time() + ahead_s), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def declare(api: KubeApi, namespace: str, name: str, ready_by: str, **more: object) -> None:
    spec = {
        "artifacts": [{"name": "weights", "modelRef": {"name": "llama"}}],
        "nodes": {"selector": {"matchLabels": {"pool": namespace}}},
        "windows": [{"name": "day", "readyBy": ready_by, "duration": "10h"}],
        **more,
    }
    metadata = {"name": name, "namespace": namespace}
    await api.create(STAGING_SCHEDULES, {"apiVersion": OURS, "kind": "StagingSchedule", "metadata": metadata, "spec": spec})


async def told(api: KubeApi, node: str) -> tuple[object, object]:
    """Generation, and what is to be staged by when."""
    found = await api.get(NODE_CACHES, node)
    return metadata_of(found)["generation"], cast("dict[str, object]", found["spec"]).get("artifacts")


async def by(api: KubeApi, node: str, ready_by: str) -> bool:
    if await listed(api, node) != {LLAMA}:
        return False
    entries = cast("list[dict[str, object]]", (await told(api, node))[1])
    return [one.get("readyBy") for one in entries] == [ready_by]


async def says(api: KubeApi, namespace: str, name: str, kind: str, reason: str) -> bool:
    found = await api.get(STAGING_SCHEDULES, name, namespace=namespace)
    status = cast("dict[str, object]", found.get("status") or {})
    conditions = cast("list[dict[str, str]]", status.get("conditions") or [])
    return any((one["type"], one["reason"]) == (kind, reason) for one in conditions)


async def report(api: KubeApi, node: str, state: str | None) -> None:
    held = [{"digest": LLAMA, "state": state}] if state else []
    status = {"budget": "1Mi", "used": "0", "originRateP10": "1Mi", "artifacts": held}
    body = {"apiVersion": OURS, "kind": "NodeCache", "metadata": {"name": node}, "status": status}
    await api.apply(NODE_CACHES, body, manager="prestage-agent", subresource="status")


async def scene(api: KubeApi, namespace: str, node: str) -> None:
    await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
    await make_node(api, node)
    await api.patch(NODES, node, {"metadata": {"labels": {"pool": namespace}}})
    model = {"metadata": {"name": "llama", "namespace": namespace}, "spec": {"source": "hf://org/llama", "revision": "main"}}
    await api.create(STAGED_MODELS, {"apiVersion": OURS, "kind": "StagedModel", **model})


async def live(server: ApiServer, namespace: str, folder: Path) -> None:
    node, early, late = f"{namespace}-n1", moment(HOUR), moment(2 * HOUR)
    async with asyncio.timeout(200), place(server, folder, namespace) as (here, api, broker):
        await scene(api, namespace, node)
        for name, ready_by, more in (("late", late, {}), ("early", early, {}), ("not", early, {"suspend": True})):
            await declare(api, namespace, name, ready_by, **more)
        with here.planner("first") as log, here.planner("second") as other:
            await until(partial(there, api, node), log=log)
            await report(api, node, None)
            await until(partial(by, api, node, early), log=log)  # once, by the sooner deadline
            await report(api, node, "Staging")
            for name in ("early", "late"):
                await until(partial(says, api, namespace, name, "OnTime", "OnTime"), log=log)
            await until(partial(says, api, namespace, "not", "Ready", "Suspended"), log=log)
            before, asked = await told(api, node), len(broker.asked)
            survivor = await the_leader_dies(here, await holder_of(api, namespace), log, other)
            await api.patch(STAGING_SCHEDULES, "early", {"spec": {"suspend": True}}, namespace=namespace)
            await until(partial(by, api, node, late), log=survivor)  # who leads now keeps the deadline that is left
            assert cast("int", (await told(api, node))[0]) == cast("int", before[0]) + 1
            assert len(broker.asked) == asked
        await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": None}}})  # others plan here too


async def the_leader_dies(here: Place, holder: str, first: Path, second: Path) -> Path:
    """Without a word. The log of the one that is left."""
    is_first = f'"me":"{holder}"' in (await asyncio.to_thread(first.read_text)).replace('": "', '":"')
    here.kill("first" if is_first else "second")
    return second if is_first else first


async def there(api: KubeApi, node: str) -> bool:
    return await listed(api, node) is not None


def test_contradictions_and_a_leader_that_dies_lose_no_deadline_and_stage_nothing_twice(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    asyncio.run(live(api_with_kinds, namespace, tmp_path))
