"""Layers through the house's engine and store: in ranges, resumed, checked; each leaves our store once containerd has it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Corrupt, NotFound
from prestage.cacher.net.ports import Client
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.staging.wishes import Watcher
from prestage.cacher.store.holds import HoldId
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Priority
from prestage.images.descriptors import Descriptor
from prestage.images.image import layer_manifest
from prestage.images.layers import LayerOrigin
from prestage.images.registry import Registry

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A blob in our store: whole, verified, held."""

    path: Path
    artifact: ArtifactId
    hold: HoldId
    fetched_bytes: int
    """Of it, over the wire now; the rest was here."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """See `containerd.content.Bytes`."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, offset, 4 * size_bytes, os.POSIX_FADV_WILLNEED)
            return os.pread(fd, size_bytes, offset)
        finally:
            os.close(fd)


class Fetcher(Protocol):
    """Where the layers of one image come from."""

    async def fetch(self, blob: Descriptor, told: Callable[[int], None]) -> LayerFile:
        """The blob as a file; `told` hears how many of its bytes have come. Cancelled, it keeps what came."""
        ...

    async def drop(self, file: LayerFile) -> None:
        """It is not needed any more."""
        ...

    async def keep(self, file: LayerFile) -> None:
        """It is not used just now: it may stay for the next attempt, or go when room is needed."""
        ...

    async def forget(self, blobs: Iterable[Descriptor]) -> None:
        """The image is staged: whatever is here of its blobs, whole or not, goes."""
        ...


class StoreFetcher:
    """See the module; of one image, on one event loop."""

    def __init__(
        self, store: Store, stager: Stager, client: Client, registry: Registry, priority: Priority = Priority.DECLARED
    ) -> None:
        self._store, self._stager, self._client, self._registry = store, stager, client, registry
        self._priority = priority

    async def fetch(self, blob: Descriptor, told: Callable[[int], None]) -> LayerFile:
        """See `Fetcher`."""
        cancel = threading.Event()
        return await in_thread(lambda: self._fetched(blob, told, cancel), cancel)

    async def drop(self, file: LayerFile) -> None:
        """See `Fetcher`."""
        await asyncio.shield(asyncio.to_thread(self._dropped, file))

    async def keep(self, file: LayerFile) -> None:
        """See `Fetcher`."""
        await asyncio.shield(asyncio.to_thread(self._store.drop_hold, file.artifact, file.hold))

    async def forget(self, blobs: Iterable[Descriptor]) -> None:
        """See `Fetcher`."""
        artifacts = [layer_manifest(self._registry.authority, blob).artifact for blob in blobs]
        await asyncio.to_thread(self._evict, artifacts)

    def _fetched(self, blob: Descriptor, told: Callable[[int], None], cancel: threading.Event) -> LayerFile:
        origin = LayerOrigin(self._registry, blob)
        artifact = layer_manifest(self._registry.authority, blob).artifact
        wish = Wish(ArtifactRef(artifact), priority=self._priority)
        staged = self._stager.stage(wish, origin, _Told(blob, told), cancel, client=self._client)
        hold = self._store.hold(artifact, kind="run", note="on its way into containerd")
        return LayerFile(staged.path / "layer", artifact, hold, staged.bytes_by_source.get("origin", 0))

    def _dropped(self, file: LayerFile) -> None:
        self._store.drop_hold(file.artifact, file.hold)
        self._evict([file.artifact])

    def _evict(self, artifacts: Iterable[ArtifactId]) -> None:
        for artifact in artifacts:
            with suppress(NotFound, Busy, Corrupt):
                self._store.evict(artifact)


class _Told(Watcher):
    """Bytes of a blob that are here, those of earlier runs included."""

    def __init__(self, blob: Descriptor, told: Callable[[int], None]) -> None:
        self._blob, self._told = blob, told

    def progress(self, progress: Progress) -> None:
        """See Watcher."""
        self._told(self._blob.size_bytes - (progress.bytes_total - progress.bytes_done))


async def in_thread(work: Callable[[], _T], cancel: threading.Event) -> _T:
    """`work` in a worker thread; when the caller is cancelled, `cancel` is set and its end awaited."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # what came of it is nobody's any more
        raise
