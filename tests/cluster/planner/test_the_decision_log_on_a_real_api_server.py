"""The decision log of planners as processes, with their own rights, over kill -9; and what `why` makes of it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from planning.real import digest_of, make_node, make_pod, make_replica_set, place, stages, until

from cluster.apiserver import ApiServer
from prestage.control.planning.decision_log import NAME, decisions_in
from prestage.kube.client import KubeApi
from prestage.kube.errors import Missing
from prestage.kube.resources import CONFIG_MAPS, NAMESPACES, NODE_CACHES, NODES
from prestage.kubectl.why import answer, asked_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
REF = "hf://org/logged@main"


async def has(api: KubeApi, namespace: str, *whats: str) -> bool:
    """Of our artifact, in this order at the end."""
    try:
        found = decisions_in(await api.get(CONFIG_MAPS, NAME, namespace=namespace))
    except Missing:
        return False
    return tuple(str(one.what) for one in found if one.artifact == digest_of(REF, 1))[-len(whats) :] == whats


async def report(api: KubeApi, node: str, *artifacts: dict[str, str]) -> None:
    status = {"budget": "1Gi", "originRateP10": "1000", "artifacts": list(artifacts)}
    body = {"metadata": {"name": node}, "status": status}
    await api.apply(NODE_CACHES, body, manager="agent", force=True, subresource="status")


async def told(api: KubeApi, what: str, namespace: str) -> str:
    found = await answer(api, asked_for(what), namespace, namespace, time.time())
    return "\n".join(f"{one.about}: {one.says}" for one in found)


def test_what_was_decided_outlives_a_killed_planner_and_why_answers_from_it(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    node, warm = f"{namespace}-n1", {"digest": digest_of(REF, 1), "state": "Warm"}

    async def test() -> None:
        async with place(api_with_kinds, tmp_path, namespace) as (here, api, _):
            await make_node(api, node)
            await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
            sets = await make_replica_set(api, namespace, "abc", ref=REF, deployment_uid="made-up")
            with here.planner("first") as log:
                await make_pod(api, sets, "p1", node=node)
                await until(partial(stages, api, node, digest_of(REF, 1)), log=log)
                await report(api, node)
                await until(partial(has, api, namespace, "Stage", "Late"), log=log)
                here.kill("first")
            await report(api, node, warm)  # nobody sees it
            with here.planner("second") as log:
                await until(partial(has, api, namespace, "Stage", "Late", "Warm"), log=log)
                said = await told(api, "model/llama", namespace)
                assert f"here: it is on {node}, whose plan wants it there since 20" in said
                assert "for Deployment/web, by a pod" in said
                assert "logged@main): it is on" in await told(api, f"node/{node}", namespace)
            await api.delete(NODES, node)

    async def bounded() -> None:
        async with asyncio.timeout(240):
            await test()

    asyncio.run(bounded())
