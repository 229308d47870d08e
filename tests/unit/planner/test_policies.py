"""A CachePolicy that cannot be read: nobody passes it, nobody loses what he has, and it is said where people look."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given, settings
from planning.cluster import Cluster, running, until
from planning.objects import OURS, REF, digest, head, namespace, node, pod, replica_set
from planning.worlds import NOW, World, carried_out, worlds

from prestage.api.nodes import Action, State
from prestage.control.planning.policies import frozen, read_policies
from prestage.kube.ports import Object, metadata_of
from prestage.kube.resources import CACHE_POLICIES, EVENTS, NODE_CACHES, STORE_POOLS
from prestage.planner.plan import plan

A = digest(REF)
OF_A_LATER_VERSION: Object = {
    "apiVersion": OURS,
    "kind": "CachePolicy",
    "metadata": head("newer", None),
    "spec": {"namespaceSelector": {}, "hard": {"bytes": "1 lorry"}},
}


@settings(max_examples=30)
@given(worlds())
def test_nothing_new_is_staged_and_nothing_is_let_go_of(world: World) -> None:
    first = plan(world.demands[::2], world.nodes, NOW, walls=world.walls)
    nodes = carried_out(world.nodes, first, state=State.STAGING)
    before = plan(world.demands, nodes, NOW, walls=world.walls)
    after, left_out = frozen(before, nodes)
    for one in nodes:
        said = {row.artifact: row.action for row in after.nodes[one.name].assignments}
        planned = {artifact for artifact, row in one.planned.items() if row.action is not Action.RELEASE}
        assert planned <= said.keys() <= planned | one.held.keys()
        assert Action.RELEASE not in said.values()
        new = {row.artifact for row in before.nodes[one.name].assignments if row.action is Action.STAGE} - said.keys()
        assert new <= left_out


def test_it_is_read_or_its_reason_is_known() -> None:
    found = read_policies(
        [OF_A_LATER_VERSION, {**OF_A_LATER_VERSION, "metadata": head("good", None), "spec": {"namespaceSelector": {}}}]
    )
    assert [one.metadata.name for one in found.known] == ["good"]
    assert "1 lorry" in found.broken["newer"]


def test_while_it_stands_nothing_new_is_staged_and_its_status_and_events_say_why() -> None:
    async def steps() -> None:
        cluster = Cluster()
        workload: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head("web"), "spec": {"replicas": 1}}
        await cluster.put(namespace(), node("n1"), workload, replica_set(), OF_A_LATER_VERSION)
        async with running(cluster.planner()):
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            await cluster.put(pod("p1", owner=("ReplicaSet", "web-abc"), on="n1"))

            async def told() -> dict[str, str]:
                events = (await cluster.api.page(EVENTS)).items
                return {f"{metadata_of(one)['namespace']} {one['reason']}": str(one["note"]) for one in events}

            async def is_told() -> bool:
                return {"team BrokenPolicy", "default Unreadable"} <= (await told()).keys()

            await until(is_told)
            assert "CachePolicy newer" in (await told())["team BrokenPolicy"]
            assert await cluster.spec("n1") == {}

            async def status() -> str:
                found = cast("dict[str, dict[str, list[dict[str, str]]]]", await cluster.find(CACHE_POLICIES, "newer"))
                rows = found.get("status", {}).get("conditions", [])
                return f"{rows[0]['status']} {rows[0]['reason']} {rows[0]['message']}" if rows else ""

            async def is_said() -> bool:
                return (await status()).startswith("False Unreadable")

            await until(is_said)
            assert "1 lorry" in await status()
            await cluster.api.delete(CACHE_POLICIES, "newer")

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_staged)

    asyncio.run(steps())


@pytest.mark.parametrize("form", [".5Ti", "5.Ti", "+5Ti", "1e+12", "1E3", "500000000000u", "1000000000000000000000"])
def test_a_quantity_that_the_api_server_takes_breaks_no_policy(form: str) -> None:
    spec = {"namespaceSelector": {}, "hard": {"bytesPerNode": form}}
    found = read_policies([{**OF_A_LATER_VERSION, "spec": spec}])
    assert (len(found.known), found.broken) == (1, {})


def test_a_store_pool_that_cannot_be_read_says_so_and_holds_up_nothing() -> None:
    async def steps() -> None:
        cluster = Cluster()
        pool: Object = {
            "apiVersion": OURS,
            "kind": "StorePool",
            "metadata": head("newer", None),
            "spec": {"nodeSelector": {}, "root": "/mnt/a", "budget": "1 lorry"},
        }
        await cluster.put(namespace(), node("n1"), replica_set(), pool)
        await cluster.put(pod("p1", owner=("ReplicaSet", "web-abc"), on="n1"))
        async with running(cluster.planner()):

            async def is_said() -> bool:
                events = (await cluster.api.page(EVENTS)).items
                found = cast("dict[str, dict[str, list[dict[str, str]]]]", await cluster.find(STORE_POOLS, "newer"))
                rows = found.get("status", {}).get("conditions", [])
                notes = [str(one["note"]) for one in events if one["reason"] == "Unreadable"]
                return [one["reason"] for one in rows] == ["Unreadable"] and any("1 lorry" in one for one in notes)

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_said)
            await until(is_staged)

    asyncio.run(steps())
