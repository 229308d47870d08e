"""The planner's decisions in their ConfigMap: over restarts and a change of leaders, in few writes, whatever lies there."""

from __future__ import annotations

import asyncio
import base64

from planning.cluster import Cluster, running, until
from planning.objects import REF, artifact, digest, head, line, namespace, node, pod, replica_set

from prestage.control.planning.board import Board
from prestage.control.planning.decision_log import NAME, Recording, decisions_in, packed
from prestage.control.planning.together import Together
from prestage.kube.errors import Unreachable
from prestage.kube.ports import Object, uid_of
from prestage.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS
from prestage.planner.decisions import Decided, Decision, Decisions

A = digest(REF)
SET = ("ReplicaSet", "web-abc")
DEPLOYMENT: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head("web"), "spec": {"replicas": 1}}


async def quick(together: Together) -> None:
    """The planner's: 2 s, 30 s."""
    await Recording(together.api, together.board, together.namespace, every_s=0.05, soon_s=0.02, pause_s=0.01).run()


async def written(cluster: Cluster) -> list[Decision]:
    found = await cluster.find(CONFIG_MAPS, NAME, "prestage")
    return decisions_in(found) if found is not None else []


async def whats(cluster: Cluster) -> list[str]:
    return [str(one.what) for one in await written(cluster) if one.artifact == A]


def test_what_was_decided_outlives_the_planner_and_its_successor_goes_on() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), DEPLOYMENT, replica_set(), pod("p1", owner=SET, on="n1"))
        web = await cluster.api.get(DEPLOYMENTS, "web", namespace="team")
        await cluster.put(artifact(REF, line(uid_of(web))))  # as the broker records it

        async def has(*what: str) -> bool:
            return set(what) <= set(await whats(cluster))

        async with running(cluster.planner("one", services=(quick,))):
            await cluster.report("n1", artifacts=[])
            await until(lambda: has("Stage", "Late"))
        before = await written(cluster)
        [stage] = [one for one in before if one.what is Decided.STAGE]
        assert (stage.nodes, stage.namespace, stage.by, stage.because) == (("n1",), "team", "Deployment/web", "Pod")
        async with running(cluster.planner("two", services=(quick,))):
            await cluster.report("n1", artifacts=[{"digest": A, "state": "Staging"}])
            await asyncio.sleep(0.5)
            assert await written(cluster) == before, "nothing is said twice"
            await cluster.report("n1", artifacts=[{"digest": A, "state": "Warm"}])
            await until(lambda: has("Warm"))
        before = await written(cluster)
        await cluster.report("n1", artifacts=[])  # while nobody leads
        async with running(cluster.planner("three", services=(quick,))):
            await until(lambda: has("Gone"), seconds=10)
            after = await written(cluster)
            assert after[: len(before)] == before
            gone = after[len(before)]
            assert (gone.what, gone.artifact, gone.because) == (Decided.GONE, A, "Unseen")

    asyncio.run(steps())


def test_a_write_that_fails_is_made_again_and_two_who_lead_at_once_lose_nothing_of_each_other() -> None:
    async def steps() -> None:
        cluster = Cluster()
        one, two = (Recording(cluster.api, Board(), "prestage", every_s=0.05, soon_s=0.02, pause_s=0.01) for _ in range(2))
        tasks = [asyncio.create_task(each.run()) for each in (one, two)]
        cluster.api.fail = [Unreachable("away"), Unreachable("away")]
        for number, each in enumerate((one, two, one, two)):
            each.add(Decision(float(number), Decided.STAGE, f"a{number}"))
            await asyncio.sleep(0.03)

        async def whole() -> bool:
            return {found.artifact for found in await written(cluster)} == {"a0", "a1", "a2", "a3"}

        await until(whole, seconds=10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(steps())


def test_what_cannot_be_read_holds_up_nothing_and_is_written_over() -> None:
    async def steps() -> None:
        cluster = Cluster()
        broken = {"metadata": {"name": NAME, "namespace": "prestage"}, "binaryData": {"log": base64.b64encode(b"junk").decode()}}
        await cluster.api.create(CONFIG_MAPS, broken)
        await cluster.put(namespace(), node("n1"), DEPLOYMENT, replica_set(), pod("p1", owner=SET, on="n1"))
        async with running(cluster.planner(services=(quick,))):
            await cluster.report("n1", artifacts=[])

            async def is_told() -> bool:
                return "Stage" in await whats(cluster)

            await until(is_told)

    asyncio.run(steps())


def test_a_burst_is_one_write_and_a_cluster_at_rest_none() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), *(node(f"n{number}") for number in range(5)), DEPLOYMENT, replica_set())

        async def calm(together: Together) -> None:
            await Recording(together.api, together.board, together.namespace, soon_s=0.3).run()

        async with running(cluster.planner(services=(calm,))):
            for number in range(5):
                await cluster.report(f"n{number}", artifacts=[])
                await cluster.put(pod(f"p{number}", owner=SET, on=f"n{number}"))
            await until(lambda: written(cluster))
            await cluster.api.delete(PODS, "p0", namespace="team")
            await asyncio.sleep(0.5)
        assert [verb for verb, place in cluster.api.writes if place[0] == CONFIG_MAPS] == ["create"]

    asyncio.run(steps())


def test_the_log_of_a_whole_fleet_is_small() -> None:
    full = Decisions()
    for number in range(3000):
        name = digest(str(number % 300))
        nodes = tuple(f"ip-10-0-{number % 7}-{one}.eu-central-1.compute.internal" for one in range(number % 5 + 1))
        full.add(
            Decision(1.9e9 + number, Decided.STAGE, name, nodes, 0, "Pod", f"team-{number % 40}", f"Deployment/web-{number % 90}")
        )
    assert len(full) == 2000
    assert len(packed(full)) < 128 << 10
