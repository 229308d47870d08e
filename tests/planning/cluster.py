"""A planner on an API server in memory: objects go in, NodeCaches and statuses come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from planning.objects import RESOURCES, digest

from prestage.api.brokerage import RecordsAnswer, RecordsRequest, Resolved, ResolveRequest
from prestage.cacher.errors import PrestageError
from prestage.control.planning.app import Planner, PlannerConfig
from prestage.control.planning.together import Service
from prestage.kube.leases import Terms
from prestage.kube.ports import Object, Resource, name_of, namespace_of, uid_of
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi
from prestage.wire.broker_client import BrokerSettings

QUICK = Terms(lease_s=1.0, renew_s=0.6, retry_s=0.1)


class WordBroker:
    """Answers each ref with the artifact of that name, unless it is told to refuse. The record it would write is the test's."""

    def __init__(self) -> None:
        self.asked: list[ResolveRequest] = []
        self.told: list[RecordsRequest] = []
        self.refuse: dict[str, PrestageError] = {}
        self.size_bytes = 1000

    async def resolve(self, request: ResolveRequest, *, deadline_s: float | None = None) -> Resolved:
        self.asked.append(request)
        if (refusal := self.refuse.get(request.ref)) is not None:
            raise refusal
        return Resolved(
            artifact=digest(request.ref), namespace=request.namespace, revision="0e9e39f", files=1, size_bytes=self.size_bytes
        )

    async def records(self, request: RecordsRequest, *, deadline_s: float | None = None) -> RecordsAnswer:
        self.told.append(request)
        return RecordsAnswer(templates=0)


class Cluster:
    """`api` is written to by tests and planners alike."""

    def __init__(self) -> None:
        self.api, self.broker = FakeApi(), WordBroker()

    async def put(self, *objects: Object) -> None:
        """Create, or replace; status too. UIDs are the API server's: owner references by name are made true."""
        for one in objects:
            await self._put(one)

    async def _put(self, one: Object) -> None:
        resource = RESOURCES[str(one["kind"])]
        metadata = {key: value for key, value in cast("dict[str, object]", one["metadata"]).items() if key != "resourceVersion"}
        owners = [await self._true(owner) for owner in cast("list[dict[str, object]]", metadata.get("ownerReferences") or [])]
        body = {**one, "metadata": {**metadata, **({"ownerReferences": owners} if owners else {})}}
        there = await self.find(resource, name_of(one), namespace_of(one))
        if there is None:
            made = await self.api.create(resource, body)
        else:
            made = await self.api.replace(resource, {**body, "metadata": {**metadata, "resourceVersion": ""}})
        if "status" in one:
            await self.api.replace(resource, {**made, "status": one["status"]}, subresource="status")

    async def _true(self, owner: dict[str, object]) -> dict[str, object]:
        found = await self.find(RESOURCES.get(str(owner["kind"]), NODE_CACHES), str(owner["name"]), "team")
        return {**owner, "uid": uid_of(found)} if found is not None else owner

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """None where it is not there."""
        page = await self.api.page(resource)
        place = namespace if resource.namespaced else None
        return next((one for one in page.items if name_of(one) == name and namespace_of(one) == place), None)

    async def spec(self, node: str) -> dict[str, str] | None:
        """What a node's NodeCache says: artifact to action."""
        found = await self.find(NODE_CACHES, node)
        if found is None:
            return None
        spec = cast("dict[str, object]", found["spec"])
        return {str(one["digest"]): str(one["action"]) for one in cast("list[dict[str, object]]", spec.get("artifacts") or [])}

    async def report(self, node: str, **status: object) -> None:
        """As its agent does."""
        async with asyncio.timeout(5):
            while await self.find(NODE_CACHES, node) is None:
                await asyncio.sleep(0.01)
        said = {"budget": "1Mi", "originRateP10": "1000", **status}
        await self.api.apply(NODE_CACHES, {"metadata": {"name": node}, "status": said}, manager="agent", subresource="status")

    def planner(self, me: str = "one", *, services: tuple[Service, ...] = (), **more: Any) -> Planner:
        """Not running yet."""
        settings = BrokerSettings("https://nowhere", Path("none"), Path("none"))  # the broker is another one
        config = PlannerConfig("prestage", settings, terms=QUICK, services=services, **more)
        return Planner(self.api, self.broker, config, me=me)


@asynccontextmanager
async def running(planner: Planner) -> AsyncIterator[Planner]:
    """Until the block ends."""
    task = asyncio.create_task(planner.run())
    try:
        yield planner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(look: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Until an awaitable look is truthy."""
    async with asyncio.timeout(seconds):
        while True:
            found = look()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)
