"""Two planners as processes, with their own account and rights, on a real API server that dies under them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from planning.real import (
    HttpsBroker,
    digest_of,
    holder_of,
    is_there,
    listed,
    make_node,
    make_pod,
    make_replica_set,
    place,
    stages,
    until,
)

from cluster.apiserver import ApiServer
from prestage.kube.client import KubeApi
from prestage.kube.ports import Object, Resource, metadata_of, uid_of
from prestage.kube.resources import CACHE_POLICIES, EVENTS, NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STORE_POOLS

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
REF, NEXT = "hf://org/model@main", "hf://org/model@v2"


def run(test: Awaitable[None], timeout_s: float = 240.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await test

    asyncio.run(bounded())


async def enable(api: KubeApi, namespace: str) -> None:
    await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})


async def asked(broker: HttpsBroker, count: int) -> bool:
    return len(broker.asked) >= count


async def says(api: KubeApi, resource: Resource, name: str, namespace: str | None, kind: str, status: str) -> bool:
    """A condition."""
    found = (await api.get(resource, name, namespace=namespace)).get("status")
    conditions = found.get("conditions", []) if isinstance(found, dict) else []
    return any((one["type"], one["status"]) == (kind, status) for one in conditions)


async def is_gone(api: KubeApi, node: str) -> bool:
    return not await is_there(api, NODE_CACHES, node)


def names(log: Path, me: str) -> bool:
    """Whether it is the log of that planner."""
    return any(one["me"] == me for one in events_of(log, "planner_started"))


def events_of(log: Path, event: str) -> list[dict[str, object]]:
    lines = [json.loads(text) for text in log.read_text().splitlines() if text.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_from_annotation_to_node_cache_through_kills_of_leader_and_api_server(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    other = "hf://org/other@main"

    async def test() -> None:
        async with place(api_with_kinds, tmp_path, namespace) as (here, api, broker):
            await enable(api, namespace)
            one, two, three = nodes = [f"{namespace}-n{number}" for number in range(1, 4)]
            for name in nodes:
                await make_node(api, name)
            old = await make_replica_set(api, namespace, "abc", ref=REF, deployment_uid=f"uid-{namespace}")
            with here.planner("first") as first, here.planner("second") as second:
                for name in nodes:
                    await until(partial(is_there, api, NODE_CACHES, name), log=first)

                # an annotation, a bound pod: what it names is staged on its node
                await until(partial(asked, broker, 1), log=first)
                began_s = time.monotonic()
                await make_pod(api, old, "web-1", node=one)
                await until(partial(stages, api, one, digest_of(REF, 1)), log=first)
                assert time.monotonic() - began_s < 30.0, "by the watch, not by a look each minute"
                assert await listed(api, two) == set()

                # upstream moves on; the template does not
                broker.revision = 2
                await make_pod(api, old, "web-2", node=two)
                await until(partial(stages, api, two, digest_of(REF, 1)), log=first)

                # a rollout: old and new, each with its own
                new = await make_replica_set(api, namespace, "def", ref=NEXT, deployment_uid=f"uid-{namespace}")
                await make_pod(api, new, "web-3", node=one)
                await until(partial(stages, api, one, digest_of(REF, 1), digest_of(NEXT, 2)), log=first)
                assert sorted((one.ref, one.template.hash) for one in broker.asked) == [(REF, "abc"), (NEXT, "def")]

                # the leader is killed in the middle of a question: the other one asks, and carries on
                holder = await holder_of(api, namespace)
                leading, survivor = ("first", second) if await asyncio.to_thread(names, first, holder) else ("second", first)
                broker.delay_s = 2.0
                third = await make_replica_set(api, namespace, "ghi", ref=other, deployment_uid=f"uid-{namespace}")
                await make_pod(api, third, "web-4", node=three)
                await until(partial(asked, broker, 3), log=first)
                here.kill(leading)
                broker.delay_s = 0.0
                await until(partial(stages, api, three, digest_of(other, 2)), log=survivor)
                assert await holder_of(api, namespace) != holder

                # the API server dies and comes back: nothing is lost
                await asyncio.to_thread(api_with_kinds.down)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(api_with_kinds.up)
                await make_pod(api, new, "web-5", node=three)
                await until(partial(stages, api, three, digest_of(other, 2), digest_of(NEXT, 2)), log=survivor)

                # a node goes: so does its NodeCache
                await api.delete(NODES, two)
                await until(partial(is_gone, api, two), log=survivor)

    run(test())


def test_what_is_wrong_is_said_by_an_event_on_the_workload(api_with_kinds: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with place(api_with_kinds, tmp_path, namespace) as (here, api, broker):
            await enable(api, namespace)
            node = f"{namespace}-n1"
            there = await make_node(api, node)
            made = await make_replica_set(api, namespace, "abc", ref=REF, deployment_uid=f"uid-{namespace}")
            with here.planner("only") as log:
                await make_pod(api, made, "web-1", node=node)
                await until(partial(stages, api, node, digest_of(REF, 1)), log=log)
                cache = await api.get(NODE_CACHES, node)
                owner = cast("list[dict[str, object]]", metadata_of(cache)["ownerReferences"])[0]
                assert (owner["kind"], owner["uid"]) == ("Node", uid_of(there))
                failed = {"digest": digest_of(REF, 1), "state": "Failed", "errorClass": "NotFound", "errorCode": "NoSuchKey"}
                status = {"budget": "1Gi", "artifacts": [failed]}
                kind = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}}
                await api.apply(NODE_CACHES, {**kind, "status": status}, manager="prestage-agent", subresource="status")

                async def told() -> list[Object]:
                    events = (await api.page(EVENTS)).items
                    return [
                        one for one in events if one["reason"] == "StageFailed" and metadata_of(one)["namespace"] == namespace
                    ]

                await until(told, log=log)
                [event] = await told()
                assert cast("dict[str, str]", event["regarding"])["kind"] == "Deployment"
                assert str(event["note"]).endswith("(NotFound/NoSuchKey); check the source and its revision")
            assert len(broker.asked) == 1

    run(test())


def test_statuses_are_what_the_definitions_take_and_say_zero_as_zero(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    def ours(kind: str, spec: dict[str, object], where: str | None = None) -> str:
        metadata = {"name": f"{namespace}-it", **({"namespace": where} if where else {})}
        return json.dumps({"apiVersion": "prestage.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})

    async def test() -> None:
        async with place(api_with_kinds, tmp_path, namespace) as (here, api, _):
            await enable(api, namespace)
            name = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            for manifest in (
                ours("StagedModel", {"source": "hf://org/model", "revision": "main"}, namespace),
                ours("CachePolicy", {"namespaceSelector": name, "hard": {"bytesPerNode": "1Gi"}}),
                ours("StorePool", {"nodeSelector": {"matchLabels": {"none": namespace}}, "root": "/mnt/a"}),
            ):
                await asyncio.to_thread(api_with_kinds.kubectl, "apply", "-f", "-", stdin=manifest)
            with here.planner("only") as log:
                await until(partial(says, api, STAGED_MODELS, f"{namespace}-it", namespace, "Ready", "True"), log=log)
                await until(partial(says, api, CACHE_POLICIES, f"{namespace}-it", None, "Ready", "True"), log=log)
                await until(partial(says, api, STORE_POOLS, f"{namespace}-it", None, "Ready", "False"), log=log)
                model = cast(
                    "dict[str, object]", (await api.get(STAGED_MODELS, f"{namespace}-it", namespace=namespace))["status"]
                )
                assert model["nodes"] == {"warm": 0, "staging": 0, "wanted": 0}
                artifact = cast("dict[str, object]", model["artifact"])
                assert (artifact["digest"], artifact["size"]) == (digest_of(f"ref:{namespace}-it", 1), 1000)
                policy = cast("dict[str, object]", (await api.get(CACHE_POLICIES, f"{namespace}-it"))["status"])
                assert policy["namespaces"] == 1
                before = (await api.get(STAGED_MODELS, f"{namespace}-it", namespace=namespace))["metadata"]
                await make_node(api, f"{namespace}-n1")
                await until(partial(is_there, api, NODE_CACHES, f"{namespace}-n1"), log=log)
                await asyncio.sleep(1.2)  # another plan, another look at the statuses: nothing new to write
                assert (await api.get(STAGED_MODELS, f"{namespace}-it", namespace=namespace))["metadata"] == before
            assert not await asyncio.to_thread(events_of, log, "status_not_written")

    run(test())
