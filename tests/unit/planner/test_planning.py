"""The whole planner on an API server in memory: what is written where, when, and how often."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import pytest
from planning.cluster import Cluster, running, until
from planning.objects import OURS, REF, digest, head, namespace, node, pod, replica_set, staged_model, template

from prestage.cacher.errors import Denied, Unavailable
from prestage.control.planning.app import LEASE
from prestage.control.planning.loop import pause_s
from prestage.kube.errors import Unreachable
from prestage.kube.ports import Object, Resource, metadata_of, uid_of
from prestage.kube.resources import (
    CACHE_POLICIES,
    EVENTS,
    LEASES,
    NODE_CACHES,
    NODES,
    PODS,
    STAGED_MODELS,
    STORE_POOLS,
)

A = digest(REF)
SET = ("ReplicaSet", "web-abc")
DEPLOYMENT: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head("web"), "spec": {"replicas": 1}}


async def a_deployment(cluster: Cluster, *pods: Object) -> None:
    await cluster.put(namespace(), node("n1"), node("n2"), DEPLOYMENT, replica_set(), *pods)


def test_each_node_gets_a_node_cache_of_its_own_and_loses_it_with_the_node() -> None:
    async def steps() -> None:
        cluster = Cluster()
        windows = {**node("w1"), "metadata": head("w1", None, labels={"kubernetes.io/os": "windows"})}
        await cluster.put(node("n1"), windows)
        async with running(cluster.planner()):
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            made = await cluster.find(NODE_CACHES, "n1")
            owner = cast("list[dict[str, object]]", metadata_of(cast(Object, made))["ownerReferences"])[0]
            there = await cluster.api.get(NODES, "n1")
            assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", "n1", uid_of(there))
            assert cast("dict[str, object]", cast(Object, made)["spec"])["nodeUID"] == uid_of(there)
            assert await cluster.find(NODE_CACHES, "w1") is None
            await cluster.api.delete(NODES, "n1")
            await cluster.put(node("n2"))
            await until(lambda: cluster.find(NODE_CACHES, "n2"))
            assert await cluster.find(NODE_CACHES, "n1") is None

    asyncio.run(steps())


def test_a_node_that_was_made_anew_under_its_name_gets_a_new_node_cache() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(node("n1"))
        async with running(cluster.planner()):
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            old = cast(Object, await cluster.find(NODE_CACHES, "n1"))
            await cluster.api.delete(NODES, "n1")
            await cluster.put(node("n1"))
            there = await cluster.api.get(NODES, "n1")

            async def is_new() -> bool:
                found = await cluster.find(NODE_CACHES, "n1")
                spec = cast("dict[str, object]", found["spec"]) if found is not None else {}
                return found is not None and uid_of(found) != uid_of(old) and spec["nodeUID"] == uid_of(there)

            await until(is_new)

    asyncio.run(steps())


def test_a_bound_pod_is_resolved_once_and_staged_on_its_node_at_once() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await a_deployment(cluster)
        async with running(cluster.planner()):
            await until(lambda: cluster.find(NODE_CACHES, "n2"))
            began_s = asyncio.get_running_loop().time()
            await cluster.put(pod("p1", owner=SET, on="n1"), pod("p2", owner=SET, on="n1"))

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_staged)
            assert asyncio.get_running_loop().time() - began_s < 5.0, "not by a look now and then"
            assert await cluster.spec("n2") == {}
            [asked] = cluster.broker.asked
            assert (asked.namespace, asked.alias, asked.ref, asked.template.hash) == ("team", "llama", REF, "abc")

    asyncio.run(steps())


def test_a_new_node_is_filled_for_the_pods_that_wait_while_its_startup_taint_keeps_them_off_it() -> None:
    async def steps() -> None:
        cluster = Cluster()
        tainted = node("n2", taints=[{"key": "prestage.dev/starting", "effect": "NoSchedule"}])
        await cluster.put(namespace(), node("n1", gpus=0), DEPLOYMENT, replica_set(), pod("p1", owner=SET))
        async with running(cluster.planner()):
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            await cluster.put(tainted)
            await cluster.report("n2")

            async def is_staged() -> bool:
                return await cluster.spec("n2") == {A: "Stage"}

            await until(is_staged)

    asyncio.run(steps())


def test_a_thousand_pods_of_one_template_are_few_writes() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await a_deployment(cluster)
        planner = cluster.planner()
        async with running(planner):
            await until(lambda: cluster.find(NODE_CACHES, "n2"))
            before = planner.tally.writes.total()
            await cluster.put(*(pod(f"p{number}", owner=SET, on=f"n{1 + number % 2}") for number in range(100)))

            async def is_staged() -> bool:
                return [await cluster.spec(name) for name in ("n1", "n2")] == [{A: "Stage"}, {A: "Stage"}]

            await until(is_staged)
            await cluster.report("n1", artifacts=[{"digest": A, "state": "Warm"}])
            await asyncio.sleep(0.3)
            assert planner.tally.writes.total() - before == 2  # one of each node: what is warm needs no other word

    asyncio.run(steps())


def test_heartbeats_make_no_plan_and_no_write() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await a_deployment(cluster, pod("p1", owner=SET, on="n1"))
        planner = cluster.planner()
        async with running(planner):
            await cluster.report("n1")

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_staged)
            await asyncio.sleep(0.4)
            plans, writes = planner.planning.timings.plans, planner.tally.writes.total()
            for beat in range(5):
                await cluster.report("n1", heartbeatAt=f"2026-01-01T00:00:0{beat}Z", used=str(beat))
                await asyncio.sleep(0.1)
            assert planner.planning.timings.plans == plans
            assert planner.tally.writes.total() == writes

    asyncio.run(steps())


def test_a_waiting_pod_is_staged_for_where_an_agent_reported_room() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await a_deployment(cluster, pod("p1", owner=SET, gates=["prestage.dev/warm"]))
        async with running(cluster.planner()):
            await cluster.report("n2")

            async def is_staged() -> bool:
                return await cluster.spec("n2") == {A: "Stage"}

            await until(is_staged)
            assert await cluster.spec("n1") == {}

    asyncio.run(steps())


def test_when_the_last_pod_goes_the_list_is_empty_which_means_keep() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), pod("p1", on="n1"))
        async with running(cluster.planner()):

            async def says(wanted: dict[str, str]) -> bool:
                return await cluster.spec("n1") == wanted

            await until(lambda: says({A: "Stage"}))
            await cluster.api.delete(PODS, "p1", namespace="team")
            await until(lambda: says({}))

    asyncio.run(steps())


def test_what_somebody_changed_by_hand_is_put_right() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), pod("p1", on="n1"))
        async with running(cluster.planner()):

            async def says(wanted: dict[str, str]) -> bool:
                return await cluster.spec("n1") == wanted

            await until(lambda: says({A: "Stage"}))
            await asyncio.sleep(0.2)
            await cluster.api.patch(NODE_CACHES, "n1", {"spec": {"artifacts": []}})
            await cluster.report("n1", budget="2Mi")  # any news
            await until(lambda: says({A: "Stage"}))

    asyncio.run(steps())


def test_of_two_replicas_one_leads_and_the_other_takes_over_when_it_is_gone() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"))
        first, second = cluster.planner("first"), cluster.planner("second")
        async with running(first), running(second):
            await until(lambda: first.tally.is_leading or second.tally.is_leading)
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            leader, other = (first, second) if first.tally.is_leading else (second, first)
            assert not other.tally.is_leading
            lease = await cluster.api.get(LEASES, LEASE, namespace="prestage")
            assert cast("dict[str, object]", lease["spec"])["holderIdentity"] == leader.me
            spec = {**cast("dict[str, object]", lease["spec"]), "holderIdentity": "somebody", "leaseDurationSeconds": 1}
            await cluster.api.replace(LEASES, {**lease, "spec": spec})  # the lease is another's: it stops
            await until(lambda: not leader.tally.is_leading)
            await until(lambda: first.tally.is_leading or second.tally.is_leading)  # who never renews loses it
            await cluster.put(pod("p1", on="n1"))

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_staged)

    asyncio.run(steps())


def test_a_write_that_fails_is_made_good_and_hurts_no_other_node() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), node("n2"))
        planner = cluster.planner()
        apply, failed = cluster.api.apply, list[str]()

        async def flaky(resource: Resource, body: Object, **more: Any) -> Object:
            name = str(metadata_of(body)["name"])
            if name == "n1" and len(failed) < 2:
                failed.append(name)
                raise Unreachable("gone for a moment")
            return await apply(resource, body, **more)

        cluster.api.apply = flaky  # type: ignore[method-assign]
        async with running(planner):
            await until(lambda: cluster.find(NODE_CACHES, "n2"))
            assert await cluster.find(NODE_CACHES, "n1") is None
            await until(lambda: cluster.find(NODE_CACHES, "n1"))
            assert planner.tally.writes["failed"] == 2

    asyncio.run(steps())


async def model_status(cluster: Cluster) -> dict[str, object]:
    found = await cluster.find(STAGED_MODELS, "llama", "team")
    return cast("dict[str, object]", found.get("status", {})) if found is not None else {}


async def condition(cluster: Cluster, kind: str) -> tuple[str, str]:
    conditions = cast("list[dict[str, str]]", (await model_status(cluster)).get("conditions", []))
    return next(((one["status"], one["reason"]) for one in conditions if one["type"] == kind), ("", ""))


def test_a_staged_model_says_what_it_is_where_it_is_and_whether_it_is_ready() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), staged_model())
        async with running(cluster.planner()):

            async def is_said(kind: str, *said: str) -> bool:
                return await condition(cluster, kind) == said

            await until(lambda: is_said("Ready", "True", "Ready"))
            assert await condition(cluster, "Warm") == ("False", "NotWanted")
            status = await model_status(cluster)
            artifact = {"digest": digest("ref:llama"), "revision": "0e9e39f", "files": 1, "size": 1000}
            assert (status["artifact"], status["nodes"]) == (artifact, {"warm": 0, "staging": 0, "wanted": 0})
            await cluster.put(pod("p1", on="n1", made=template(ref="ref:llama")))
            await until(lambda: is_said("Ready", "False", "Staging"))
            await cluster.report("n1", artifacts=[{"digest": digest("ref:llama"), "state": "Warm"}])
            await until(lambda: is_said("Ready", "True", "Ready"))
            assert (await model_status(cluster))["nodes"] == {"warm": 1, "staging": 0, "wanted": 1}

    asyncio.run(steps())


def test_a_refusal_is_told_in_the_status_and_by_one_event_in_the_namespace() -> None:
    async def steps() -> None:
        cluster = Cluster()
        cluster.broker.refuse["ref:llama"] = Denied("hf://org/model is gated", hint="name a Secret in spec.credentials")
        cluster.broker.refuse[REF] = Unavailable("the origin is away")
        await a_deployment(cluster, pod("p1", owner=SET, on="n1"), staged_model())
        planner = cluster.planner()
        async with running(planner):

            async def is_denied() -> bool:
                return await condition(cluster, "Authorized") == ("False", "BrokerUnavailable")

            await until(is_denied)

            async def notes() -> list[tuple[str, str]]:
                events = (await cluster.api.page(EVENTS)).items
                assert {metadata_of(one)["namespace"] for one in events} <= {"team"}
                return sorted((cast("dict[str, str]", one["regarding"])["kind"], str(one["note"])) for one in events)

            async def are_two() -> bool:
                return len(await notes()) == 2

            await until(are_two)
            assert await notes() == [
                ("Deployment", "model llama: hf://org/model@main (Unavailable): the origin is away"),
                ("StagedModel", "model model: ref:llama (Denied): hf://org/model is gated; name a Secret in spec.credentials"),
            ]
            await cluster.put(node("n3"))
            await asyncio.sleep(0.3)
            assert len(await notes()) == 2  # nothing new: nothing said

    asyncio.run(steps())


def test_a_stage_that_failed_is_told_the_workload_with_class_code_and_next_step() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await a_deployment(cluster, pod("p1", owner=SET, on="n1"))
        async with running(cluster.planner()):
            failed = {"digest": A, "state": "Failed", "errorClass": "Denied", "errorCode": "OriginRefused"}
            await cluster.report("n1", artifacts=[failed])

            async def is_told() -> bool:
                events = (await cluster.api.page(EVENTS)).items
                return [(one["reason"], one["note"]) for one in events] == [
                    (
                        "StageFailed",
                        f"model llama ({REF}) could not be staged (Denied/OriginRefused); "
                        "check the credentials, and that they may read this source",
                    )
                ]

            await until(is_told)

    asyncio.run(steps())


def test_policies_and_pools_count_what_they_hold_for_and_their_limits_hold() -> None:
    async def steps() -> None:
        cluster = Cluster()
        hard = {"namespaceSelector": {"matchLabels": {"name": "team"}}, "hard": {"bytesPerNode": 10}}
        policy: Object = {"apiVersion": OURS, "kind": "CachePolicy", "metadata": head("small", None), "spec": hard}
        selector = {"nodeSelector": {"matchLabels": {"gpu": "h100"}}, "root": "/mnt/a"}
        pool: Object = {"apiVersion": OURS, "kind": "StorePool", "metadata": head("h100", None), "spec": selector}
        await cluster.put(node("n1"), node("n2", gpu="h100"), policy, pool, namespace(), namespace("other"), pod("p1", on="n1"))
        async with running(cluster.planner()):

            async def are_counted() -> bool:
                found = [await cluster.find(CACHE_POLICIES, "small"), await cluster.find(STORE_POOLS, "h100")]
                said = [cast("dict[str, object]", (one or {}).get("status", {})) for one in found]
                return (said[0].get("namespaces"), said[1].get("nodes")) == (1, 1)

            await until(are_counted)
            assert await cluster.spec("n1") == {}

            async def is_told() -> bool:
                return {one["reason"] for one in (await cluster.api.page(EVENTS)).items} == {"NamespaceNodeBytes"}

            await until(is_told)

    asyncio.run(steps())


@pytest.mark.parametrize("written", [{"nonsense": 1}, {"nodeUID": 7}])
def test_a_node_cache_that_cannot_be_read_is_made_again(written: Object) -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), node("n1"), pod("p1", on="n1"))
        await cluster.api.create(NODE_CACHES, {"metadata": {"name": "n1"}, "spec": written})
        async with running(cluster.planner()):

            async def is_staged() -> bool:
                return await cluster.spec("n1") == {A: "Stage"}

            await until(is_staged)

    asyncio.run(steps())


def test_a_change_in_a_quiet_moment_is_planned_almost_at_once_and_a_burst_after_a_pause() -> None:
    assert pause_s(quiet_s=math.inf, last_s=0.0) == pause_s(quiet_s=0.3, last_s=2.0) == 0.01
    assert [pause_s(quiet_s=0.0, last_s=last_s) for last_s in (0.0, 0.07, 3.0)] == [0.02, 0.07, 0.1]
