"""One attempt's work: blobs from the fetcher into containerd, layers unpacked, side by side, until the plan is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from prestage.cacher.errors import NotFound
from prestage.images.containerd.channel import Locked
from prestage.images.containerd.content import Bytes, Writing
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.descriptors import Descriptor
from prestage.images.fetching import Fetcher, LayerFile
from prestage.images.image import Image, Layer
from prestage.images.names import OciDigest, host_of
from prestage.images.plan import Plan, next_fetches
from prestage.images.progress import Progress
from prestage.images.runtime import Containerd

AHEAD_BYTES = 256 << 20
"""Begun but not whole: enough for all connections, little enough that the lowest layer comes first."""
FETCHES = 3
"""At once, each in a thread of asyncio's pool, which has five on a single core: writing needs some of them too."""
LOCKED_S, LOCKED_MOST_S = 0.3, 600.0
_UNCOMPRESSED = "containerd.io/uncompressed"


@dataclass(slots=True)
class Moving:
    """See the module."""

    containerd: Containerd
    image: Image
    lease: str
    fetcher: Fetcher
    tell: Callable[[], None]
    progress: Progress
    _in_content: dict[OciDigest, asyncio.Event] = field(default_factory=dict)
    _here: asyncio.Queue[tuple[Descriptor, LayerFile]] = field(default_factory=asyncio.Queue)

    async def run(self, todo: Plan, *, drop_blobs: bool) -> None:
        """All of it, then the config.

        Raises:
            PrestageError: of whichever part failed first, in an ExceptionGroup; the others have ended.
        """
        for layer in todo.unpacks:
            event = self._in_content.setdefault(layer.blob.digest, asyncio.Event())
            event.set()
        for blob in todo.fetches:
            self._in_content[blob.digest].clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch(todo.fetches))
                group.create_task(self._fill(len(todo.fetches)))
                group.create_task(self._unpack(todo.unpacks))
        finally:
            await self._let_go()
        await self._write_config()
        if drop_blobs:
            for blob in self.image.blobs:
                await self.containerd.leases.drop(self.lease, Resource(CONTENT, blob.digest))
            await self.containerd.leases.collect()

    async def _fetch(self, blobs: tuple[Descriptor, ...]) -> None:
        waiting, flying = deque(blobs), dict[asyncio.Task[None], Descriptor]()
        async with asyncio.TaskGroup() as group:
            while waiting or flying:
                for _ in range(next_fetches(waiting, flying.values(), ahead_bytes=AHEAD_BYTES, most=FETCHES)):
                    blob = waiting.popleft()
                    flying[group.create_task(self._fetch_one(blob))] = blob
                done, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del flying[task]

    async def _fetch_one(self, blob: Descriptor) -> None:
        loop = asyncio.get_running_loop()

        def told(so_far: int) -> None:
            loop.call_soon_threadsafe(self._came, blob, so_far)

        file = await self.fetcher.fetch(blob, told)
        self._here.put_nowait((blob, file))
        self.progress.fetched_bytes += file.fetched_bytes
        self._came(blob, blob.size_bytes)

    def _came(self, blob: Descriptor, so_far: int) -> None:
        self.progress.came(blob.digest, so_far)
        self.tell()

    async def _fill(self, count: int) -> None:
        for _ in range(count):
            blob, file = await self._here.get()
            try:
                await self._write(blob, f"layer-{blob.digest}", file, self._labels())
            except BaseException:
                await self.fetcher.keep(file)
                raise
            self._in_content[blob.digest].set()
            await self.fetcher.drop(file)

    async def _unpack(self, layers: tuple[Layer, ...]) -> None:
        for layer in layers:
            await self._in_content[layer.blob.digest].wait()
            await self.containerd.snapshots.unpack(self.lease, layer)
            with suppress(NotFound):  # a pull that has ended may have dropped it: discard_unpacked_layers
                await self.containerd.content.label(layer.blob.digest, {_UNCOMPRESSED: layer.diff_id})
            self.progress.unpacked_one(layer.blob.size_bytes)
            self.tell()

    async def _write(self, blob: Descriptor, ref: str, source: Bytes, labels: dict[str, str]) -> None:
        """Waits while another client writes the same ref: when it is done, the blob is there."""
        waited = 0.0
        while True:
            try:
                await self.containerd.content.write(Writing(blob, ref, self.lease, labels), source)
                return
            except Locked:
                if waited >= LOCKED_MOST_S:
                    raise
            await asyncio.sleep(LOCKED_S)
            waited += LOCKED_S

    async def _write_config(self) -> None:
        config, snapshots = self.image.config, self.containerd.snapshots
        keeps = {f"containerd.io/gc.ref.snapshot.{snapshots.snapshotter}": self.image.top}
        await self._write(config, f"config-{config.digest}", _InMemory(self.image.config_bytes), {**self._labels(), **keeps})
        await self.containerd.content.label(config.digest, keeps)

    def _labels(self) -> dict[str, str]:
        """Where a blob came from, as pulls say it: the host without its port."""
        return {f"containerd.io/distribution.source.{host_of(self.image.name.registry)}": self.image.name.repository}

    async def _let_go(self) -> None:
        """Files that were not written: they stay in our store, for the next attempt."""
        while not self._here.empty():
            await self.fetcher.keep(self._here.get_nowait()[1])


@dataclass(frozen=True, slots=True)
class _InMemory:
    data: bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        return self.data[offset : offset + size_bytes]
