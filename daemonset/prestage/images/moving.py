"""One attempt's work: blobs from the registry into containerd, layers unpacked, side by side, until the plan is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from prestage.cacher.errors import Corrupt, NotFound
from prestage.images.containerd.content import Writing
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.containerd.placing import Placer
from prestage.images.containerd.reads import followed
from prestage.images.containerd.waiting import write_at_last
from prestage.images.descriptors import Descriptor
from prestage.images.fetching import Fetcher
from prestage.images.image import Image, Layer
from prestage.images.incoming import Incoming, Wanted
from prestage.images.landing import Landing
from prestage.images.names import OciDigest, host_of
from prestage.images.plan import Plan
from prestage.images.progress import Progress
from prestage.images.runtime import Containerd

_UNCOMPRESSED = "containerd.io/uncompressed"


class WrongBytes(Corrupt):
    """What came of a layer is not it; containerd has let go of it."""

    def __init__(self, blob: Descriptor, why: Corrupt) -> None:
        super().__init__(why.message, hint="the registry is damaged, or a proxy changes its answers; push the image again")
        self.blob = blob


@dataclass(slots=True)
class Moving:
    """See the module."""

    containerd: Containerd
    image: Image
    lease: str
    fetcher: Fetcher
    tell: Callable[[], None]
    progress: Progress
    placer: Placer | None = None
    """Puts layers in place as files; None: they go through containerd's socket."""
    _in_content: dict[OciDigest, asyncio.Event] = field(default_factory=dict)

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
        async with asyncio.TaskGroup() as group:
            group.create_task(self._place(self.placer, todo.fetches) if self.placer is not None else self._send(todo.fetches))
            group.create_task(self._unpack(todo.unpacks))
        await self._write_config()
        if drop_blobs:
            for blob in self.image.blobs:
                await self.containerd.leases.drop(self.lease, Resource(CONTENT, blob.digest))
            await self.containerd.leases.collect()

    async def _begun(self, blobs: tuple[Descriptor, ...]) -> list[tuple[Descriptor, int]]:
        """How much of each containerd has."""
        offsets = {ingest.ref: ingest.offset for ingest in await self.containerd.content.ingests()} if blobs else {}
        begun = [(blob, min(offsets.get(_ref(blob), 0), blob.size_bytes)) for blob in blobs]
        for blob, offset in begun:
            self.progress.kept(blob.digest, offset)
        self.tell()
        return begun

    async def _send(self, blobs: tuple[Descriptor, ...]) -> None:
        """Through the socket, one after the other; one is checked and synced while the next comes."""
        wanted = [Wanted(blob, offset) for blob, offset in await self._begun(blobs)]
        async with self.fetcher.fetch(wanted, self._arrived) as incoming:
            try:
                async with asyncio.TaskGroup() as group:
                    for one in wanted:
                        fed = asyncio.Event()
                        group.create_task(self._fill(one.blob, incoming, fed))
                        await fed.wait()
            finally:
                self.progress.fetched_bytes += incoming.received_bytes

    async def _fill(self, blob: Descriptor, incoming: Incoming, fed: asyncio.Event) -> None:
        def passed() -> None:
            incoming.passed(blob)
            fed.set()

        try:
            await write_at_last(self.containerd.content, self._writing(blob, passed), _Layer(incoming, blob))
        except Corrupt as exc:
            raise WrongBytes(blob, exc) from exc
        passed()  # it may have been there
        self._is_there(blob)

    async def _place(self, placer: Placer, blobs: tuple[Descriptor, ...]) -> None:
        """As files; each is synced and named while others come."""
        self.tell()
        async with self.fetcher.land(blobs, placer.file, self._arrived) as landing:
            try:
                async with asyncio.TaskGroup() as group:
                    for blob in blobs:
                        group.create_task(self._put(placer, landing, blob))
            finally:
                self.progress.fetched_bytes += landing.received_bytes

    async def _put(self, placer: Placer, landing: Landing, blob: Descriptor) -> None:
        try:
            await placer.put(self._writing(blob), await landing.whole(blob))
        except Corrupt as exc:
            raise WrongBytes(blob, exc) from exc
        landing.done(blob)
        self._is_there(blob)

    def _writing(self, blob: Descriptor, fed: Callable[[], None] = lambda: None) -> Writing:
        def told(offset: int) -> None:
            self.progress.kept(blob.digest, offset)
            self.tell()

        return Writing(blob, _ref(blob), self.lease, self._labels(), told, fed)

    def _arrived(self, blob: Descriptor, so_far: int) -> None:
        self.progress.came(blob.digest, so_far)
        self.tell()

    def _is_there(self, blob: Descriptor) -> None:
        self.progress.kept(blob.digest, blob.size_bytes)
        self.tell()
        self._in_content[blob.digest].set()

    async def _unpack(self, layers: tuple[Layer, ...]) -> None:
        for layer in layers:
            await self._in_content[layer.blob.digest].wait()
            async with followed(self.containerd.setup.content_folder, layer.blob, self._read):
                await self.containerd.snapshots.unpack(self.lease, layer)
            with suppress(NotFound):  # a pull that has ended may have dropped it: discard_unpacked_layers
                await self.containerd.content.label(layer.blob.digest, {_UNCOMPRESSED: layer.diff_id})
            self.progress.unpacked_one(layer.blob.size_bytes)
            self.tell()

    def _read(self, so_far: int) -> None:
        self.progress.unpacking(so_far)
        self.tell()

    async def _write_config(self) -> None:
        config, snapshots = self.image.config, self.containerd.snapshots
        keeps = {f"containerd.io/gc.ref.snapshot.{snapshots.snapshotter}": self.image.top}
        writing = Writing(config, f"config-{config.digest}", self.lease, {**self._labels(), **keeps})
        await write_at_last(self.containerd.content, writing, _InMemory(memoryview(self.image.config_bytes)))
        await self.containerd.content.label(config.digest, keeps)

    def _labels(self) -> dict[str, str]:
        """Where a blob came from, as pulls say it: the host without its port."""
        return {f"containerd.io/distribution.source.{host_of(self.image.name.registry)}": self.image.name.repository}


def _ref(blob: Descriptor) -> str:
    """As pulls call it."""
    return f"layer-{blob.digest}"


@dataclass(slots=True)
class _Layer:
    incoming: Incoming
    blob: Descriptor
    at: int = 0

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        self.at = offset
        return await self.incoming.read(self.blob, offset, size_bytes)

    async def arrival(self) -> None:
        await self.incoming.read(self.blob, self.at, 1)


@dataclass(frozen=True, slots=True)
class _InMemory:
    data: memoryview

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        return self.data[offset : offset + size_bytes]

    async def arrival(self) -> None:
        return
