"""Snapshots: a layer unpacked onto its parent, and committed under its chain ID only if it is what the config says.

    Prepare(extract-<unique> <chain>, parent) ─▶ Diff.Apply ─▶ applied == diff ID? ─▶ Commit(chain)      else Remove(extract-…)

The parent is given to Prepare: that of Commit is ignored up to containerd 2.1. Prepare says ALREADY_EXISTS where the chain is
there; containerd 1.6 then does not put it on the lease, so that is always done by hand.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from google.protobuf.empty_pb2 import Empty

from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Corrupt, NotFound, PrestageError, Unavailable
from prestage.images.chains import ChainId
from prestage.images.containerd.channel import AlreadyThere, Channel
from prestage.images.containerd.leases import Leases, Resource
from prestage.images.image import Layer
from prestage.wire.containerd_pb2 import (
    COMMITTED,
    ApplyAnswer,
    ApplyRequest,
    Descriptor,
    Mount,
    SnapshotCommitRequest,
    SnapshotInfo,
    SnapshotListAnswer,
    SnapshotListRequest,
    SnapshotPrepareAnswer,
    SnapshotPrepareRequest,
    SnapshotRequest,
    SnapshotStatAnswer,
    SnapshotUsageAnswer,
)

_SERVICE = "/containerd.services.snapshots.v1.Snapshots"
_APPLY = "/containerd.services.diff.v1.Diff/Apply"
_REF_LABEL = "containerd.io/snapshot.ref"
EXTRACT = "extract-"
APPLY_S, APPLY_BYTES_PER_S = 120.0, 2e6
"""How long an unpack may take: a floor, and by the layer's compressed size."""
CALL_S = 60.0


class Snapshots:
    """Of one snapshotter."""

    def __init__(self, channel: Channel, leases: Leases, snapshotter: str) -> None:
        self._channel, self._leases, self.snapshotter = channel, leases, snapshotter

    @property
    def resource_type(self) -> str:
        """As leases say it."""
        return f"snapshots/{self.snapshotter}"

    async def has(self, chain: ChainId) -> bool:
        """It is committed."""
        try:
            answer = await self._channel.ask(f"{_SERVICE}/Stat", self._request(chain), SnapshotStatAnswer)
        except NotFound:
            return False
        return answer.info.kind == COMMITTED

    async def keep(self, lease: str, chain: ChainId) -> bool:
        """Put a committed chain on the lease; False where there is none. Looked at twice: it might go in between."""
        if not await self.has(chain):
            return False
        await self._leases.add(lease, Resource(self.resource_type, chain))
        return await self.has(chain)

    async def all(self) -> AsyncIterator[SnapshotInfo]:
        """Every snapshot of the namespace."""
        request = SnapshotListRequest(snapshotter=self.snapshotter)
        async for answer in self._channel.listed(f"{_SERVICE}/List", request, SnapshotListAnswer):
            for one in answer.info:
                yield one

    async def usage_bytes(self, key: str) -> int:
        """What one snapshot takes on disk, its parents left out; 0 where it is gone."""
        try:
            answer = await self._channel.ask(f"{_SERVICE}/Usage", self._request(key), SnapshotUsageAnswer, timeout_s=CALL_S)
        except NotFound:
            return 0
        return answer.size

    async def unpack(self, lease: str, layer: Layer) -> bool:
        """Make the layer's chain a snapshot on the lease; its blob is in the content store. False: it was there. Idempotent;
        whatever ends it early, nothing half done is left by us.

        Raises:
            Corrupt: the blob unpacks to something else than the config says; nothing was committed.
            PrestageError: as the channel says.
        """
        key = f"{EXTRACT}{time.time_ns()}-{uuid.uuid4().hex[:8]} {layer.chain}"
        mounts = await self._prepare(lease, key, layer)
        if mounts is None:
            return False
        try:
            await self._apply(lease, layer, mounts)
            return await self._commit(lease, key, layer)
        except BaseException:
            with suppress(PrestageError):
                await to_its_end(self.remove(key))
            raise

    async def sweep(self, lease: str) -> int:
        """Remove what an unpack left that was killed; returns how many there were."""
        left = [
            one for one in await self._leases.resources(lease) if one.type == self.resource_type and one.id.startswith(EXTRACT)
        ]
        for one in left:
            await self.remove(one.id)
        return len(left)

    async def remove(self, key: str) -> None:
        """Idempotent."""
        with suppress(NotFound):
            await self._channel.call(f"{_SERVICE}/Remove", self._request(key), Empty, timeout_s=CALL_S)

    async def _prepare(self, lease: str, key: str, layer: Layer) -> Sequence[Mount] | None:
        """None: the chain is there already."""
        try:
            return await self._prepared(lease, key, layer)
        except Unavailable as exc:
            # killed after it had named the snapshot's folder, before it wrote that down: as it refuses, containerd removes it
            if "failed to rename" not in str(exc):
                raise
        return await self._prepared(lease, key, layer)

    async def _prepared(self, lease: str, key: str, layer: Layer) -> Sequence[Mount] | None:
        request = SnapshotPrepareRequest(
            snapshotter=self.snapshotter, key=key, parent=layer.parent or "", labels={_REF_LABEL: layer.chain}
        )
        try:
            answer = await self._channel.call(
                f"{_SERVICE}/Prepare", request, SnapshotPrepareAnswer, lease=lease, timeout_s=CALL_S
            )
        except AlreadyThere:
            if await self.keep(lease, layer.chain):
                return None
            raise Unavailable("a layer went away while it was looked at", hint="try again") from None
        return answer.mounts

    async def _apply(self, lease: str, layer: Layer, mounts: Sequence[Mount]) -> None:
        blob = layer.blob
        descriptor = Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size_bytes)
        timeout_s = APPLY_S + blob.size_bytes / APPLY_BYTES_PER_S
        request = ApplyRequest(diff=descriptor, mounts=mounts)
        answer = await self._channel.call(_APPLY, request, ApplyAnswer, lease=lease, timeout_s=timeout_s)
        if answer.applied.digest != layer.diff_id:
            raise Corrupt("a layer unpacks to something else than the image's config says", hint="push the image again")

    async def _commit(self, lease: str, key: str, layer: Layer) -> bool:
        request = SnapshotCommitRequest(snapshotter=self.snapshotter, name=layer.chain, key=key, labels={_REF_LABEL: layer.chain})
        try:
            await self._channel.call(f"{_SERVICE}/Commit", request, Empty, lease=lease, timeout_s=CALL_S)
        except AlreadyThere:  # a pull was faster
            await self.remove(key)
            if not await self.keep(lease, layer.chain):
                raise Unavailable("a layer went away while it was looked at", hint="try again") from None
            return False
        return True

    def _request(self, key: str) -> SnapshotRequest:
        return SnapshotRequest(snapshotter=self.snapshotter, key=key)
