"""Leases: what containerd's garbage collector leaves alone. There is no call to change one; what can expire is made anew."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from prestage.cacher.errors import NotFound
from prestage.images.containerd.channel import AlreadyThere, Channel
from prestage.wire.containerd_pb2 import (
    LeaseCreateAnswer,
    LeaseCreateRequest,
    LeaseDeleteRequest,
    LeaseListAnswer,
    LeaseListRequest,
    LeaseResource,
    LeaseResourceRequest,
    LeaseResourcesAnswer,
    LeaseResourcesRequest,
)

_SERVICE = "/containerd.services.leases.v1.Leases"
CONTENT = "content"
COLLECT_S = 300.0
"""A deletion that waits for the garbage collector: it removes files."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One of any client."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """What a lease keeps: `content` by digest, `ingests` by ref, `snapshots/<snapshotter>` by key."""

    type: str
    id: str


class Leases:
    """See the module."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def all(self) -> Sequence[Lease]:
        """Of every client in the namespace."""
        answer = await self._channel.ask(f"{_SERVICE}/List", LeaseListRequest(), LeaseListAnswer)
        return [Lease(one.id, dict(one.labels)) for one in answer.leases]

    async def create(self, lease: Lease) -> None:
        """Idempotent."""
        request = LeaseCreateRequest(id=lease.id, labels=lease.labels)
        try:
            await self._channel.call(f"{_SERVICE}/Create", request, LeaseCreateAnswer)
        except AlreadyThere:
            return

    async def delete(self, lease: str, *, collect: bool) -> None:
        """Idempotent. With `collect` the garbage collector has run when this returns."""
        request = LeaseDeleteRequest(id=lease, sync=collect)
        try:
            await self._channel.call(f"{_SERVICE}/Delete", request, Empty, timeout_s=COLLECT_S)
        except NotFound:
            return

    async def add(self, lease: str, resource: Resource) -> None:
        """Keep one more thing. Idempotent."""
        await self._channel.ask(f"{_SERVICE}/AddResource", _request(lease, resource), Empty)

    async def drop(self, lease: str, resource: Resource) -> None:
        """Keep one thing less. Idempotent."""
        await self._channel.ask(f"{_SERVICE}/DeleteResource", _request(lease, resource), Empty)

    async def resources(self, lease: str) -> Sequence[Resource]:
        """What it keeps; nothing when there is no such lease."""
        request = LeaseResourcesRequest(id=lease)
        try:
            answer = await self._channel.ask(f"{_SERVICE}/ListResources", request, LeaseResourcesAnswer)
        except NotFound:
            return []
        return sorted(Resource(one.type, one.id) for one in answer.resources)

    async def collect(self) -> None:
        """Run the garbage collector now: that is what deleting any lease with `sync` does."""
        empty = f"prestage-collect-{uuid.uuid4().hex[:12]}"
        await self.create(Lease(empty, {}))
        await self.delete(empty, collect=True)


def _request(lease: str, resource: Resource) -> LeaseResourceRequest:
    return LeaseResourceRequest(id=lease, resource=LeaseResource(id=resource.id, type=resource.type))
