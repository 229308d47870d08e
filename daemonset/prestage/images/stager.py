"""One image into containerd, under a lease of ours: fetch, fill, unpack; goes on wherever it was cut off.

    look      which chains and blobs are there, how much of the others ─▶ plan
    fetch     missing blobs into memory, some pieces ahead, the lowest layer first
    fill      each, as it comes, into the content store
    unpack    in order, each on its parent, diff ID checked
    config    last: a lease with the config and the top chain is a staged image

The three run side by side. A pull of the same image, a pause, a lease that is about to expire: each ends the attempt (streams are
closed, fetches ended), is waited for, and the next attempt looks anew. Nothing is known here but what containerd knows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from prestage.cacher.digests import ArtifactId
from prestage.cacher.ending import cancellable
from prestage.cacher.errors import Full, Misconfigured, PrestageError
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.containerd.placing import Placer
from prestage.images.fetching import Fetcher
from prestage.images.image import Image
from prestage.images.keeping import Keeper
from prestage.images.leasing import ImageLease, Terms
from prestage.images.moving import Moving, WrongBytes
from prestage.images.names import OciDigest
from prestage.images.plan import Plan, Seen, plan
from prestage.images.progress import Progress
from prestage.images.pulls import LOOK_S, is_pulling, until_pulled
from prestage.images.room import HIGH_WATER, Disk, is_over, why_not
from prestage.images.runtime import Containerd

_LOST_MOST = 3


class Why(Enum):
    """What ends an attempt that will be followed by another."""

    PULL = "pull"
    PAUSE = "pause"
    RENEWAL = "renewal"


class Interrupted(Exception):
    """See `Why`."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class StagingTerms:
    """How images are staged."""

    lease_s: float = 24 * 3600.0
    """How long an image stays when nobody renews its lease."""
    drop_blobs: bool = False
    """Let layers' blobs go once they are unpacked: saves their bytes, costs other images that share only some of them a fetch."""
    high_water: float = HIGH_WATER
    """How full containerd's file system may become."""
    in_place: bool = False
    """Put layers' files into containerd's content folder ourselves: half the CPU; takes that folder beside the socket."""


@dataclass(frozen=True, slots=True)
class StagedImage:
    """An image that is there: unpacked, leased."""

    artifact: ArtifactId
    name: str
    lease: str
    layers: int
    size_bytes: int
    fetched_bytes: int
    """Over the wire in this run."""
    seconds: float
    yielded: int
    """How often a pull was given way."""


@dataclass(slots=True)
class ImageStager:
    """See the module. Of one event loop; one at a time for one image."""

    containerd: Containerd
    terms: StagingTerms = field(default_factory=StagingTerms)
    now: Callable[[], float] = time.time
    _running: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._running.set()

    @property
    def _keeper(self) -> Keeper:
        return Keeper(self.containerd, self.terms.lease_s, self.now)

    def pause(self) -> None:
        """Stop moving bytes within half a second; what was moved stays."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    async def stage(
        self, image: Image, fetcher: Fetcher, told: Callable[[Progress], None] = lambda _progress: None
    ) -> StagedImage:
        """Make the node hold the image, unpacked. Idempotent; killed or cancelled, the next call goes on.

        Raises:
            Full: it does not fit on containerd's file system, or that filled up: nothing of it is held any more.
            WrongBytes: a layer is not what its digest says, twice.
            PrestageError: as its class says; what was fetched and unpacked stays on the lease until that expires.
        """
        began, run = time.monotonic(), _Run()
        while True:
            await self._running.wait()
            lease = await self._keeper.for_attempt(Terms.of(image, self.containerd.snapshots.snapshotter))
            try:
                await cancellable(self._attempt(image, lease, fetcher, run, told))
                break
            except Full:
                await self._keeper.drop(await self._keeper.of(image.artifact))
                raise
            except Interrupted as exc:
                run.progress.stopped(exc.why.value)
                told(run.progress)
                run.yielded += exc.why is Why.PULL
                if exc.why is Why.PULL:
                    run.gives_way = await until_pulled(self.containerd, image)
            except PrestageError as exc:
                if not run.may_try_again(exc) and not (run.may_lose_lease() and await self._keeper.is_gone(lease)):
                    raise
        seconds = time.monotonic() - began
        return StagedImage(
            image.artifact,
            str(image.name),
            lease.id,
            len(image.layers),
            image.size_bytes,
            run.progress.fetched_bytes,
            seconds,
            run.yielded,
        )

    async def renew(self, artifact: ArtifactId) -> None:
        """Keep it for another `lease_s`.

        Raises:
            NotFound: no such image here.
        """
        await self._keeper.renew(artifact)

    async def release(self, artifact: ArtifactId) -> None:
        """Let go of it: what no image, container or other lease needs is gone when this returns.

        Raises:
            NotFound: no such image here.
            Busy: a pull of it is running, which may rely on what we hold.
        """
        await self._keeper.release(artifact)

    async def _attempt(
        self, image: Image, lease: ImageLease, fetcher: Fetcher, run: _Run, told: Callable[[Progress], None]
    ) -> None:
        progress = run.progress
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(image, lease, run))
                todo = await self._look(image, lease)
                if (disk := self._disk()) is not None and (why := why_not(todo, disk, self.terms.high_water)):
                    raise Full(f"{image.name}: {why}", hint="release other images, or raise the mark")
                progress.begun(todo)
                moving = Moving(self.containerd, image, lease.id, fetcher, lambda: told(progress), progress, self._placer())
                await moving.run(todo, drop_blobs=self.terms.drop_blobs)
                watching.cancel()
        except BaseExceptionGroup as failures:
            leading = _leading(failures)
            if leading is None:
                raise
            raise leading from failures

    async def _look(self, image: Image, lease: ImageLease) -> Plan:
        """What is there, put on the lease as it is found."""
        chains, blobs = set(), set()
        for layer in reversed(image.layers):
            if await self.containerd.snapshots.keep(lease.id, layer.chain):
                chains.add(layer.chain)
                break
        for blob in image.blobs:
            if await self.containerd.content.info(blob.digest) is not None:
                await self.containerd.leases.add(lease.id, Resource(CONTENT, blob.digest))
                blobs.add(blob.digest)
        return plan(image, Seen(chains, blobs))

    async def _watch(self, image: Image, lease: ImageLease, run: _Run) -> None:
        """End the attempt when something else goes first."""
        while True:
            if not self._running.is_set():
                raise Interrupted(Why.PAUSE)
            if run.gives_way and await is_pulling(self.containerd, image.roots):
                raise Interrupted(Why.PULL)
            if self._keeper.is_due(lease):
                raise Interrupted(Why.RENEWAL)
            disk = self._disk() if run.progress.unpacked < run.progress.unpack_total else None
            if disk is not None and is_over(disk, self.terms.high_water):
                raise Full(f"{image.name}: containerd's disk is {disk.used:.0%} full", hint="release other images")
            await asyncio.sleep(LOOK_S)

    def _placer(self) -> Placer | None:
        """Of layers; None: they go through the socket.

        Raises:
            Misconfigured: `in_place`, and containerd's content folder is not here, or not told.
        """
        if not self.terms.in_place:
            return None
        if not self.containerd.setup.content_root:
            raise Misconfigured("containerd does not say where its blobs lie", hint="see ctr plugins ls -d id==content")
        if (folder := self.containerd.setup.content_folder) is None:
            raise Misconfigured("containerd's content folder is not here", hint="mount it, at the path that containerd knows")
        return Placer(self.containerd.content, folder)

    def _disk(self) -> Disk | None:
        """containerd's file system; None where its path is not ours too."""
        root = self.containerd.setup.image_root
        try:
            room = os.statvfs(root) if root else None
        except OSError:
            room = None
        return Disk(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize) if room is not None else None


@dataclass(slots=True)
class _Run:
    """What one call of `stage` remembers between its attempts."""

    progress: Progress = field(default_factory=Progress)
    yielded: int = 0
    gives_way: bool = True
    """To a pull: not once one has stood still."""
    lost: int = 0
    _again: set[OciDigest] = field(default_factory=set)

    def may_try_again(self, failure: PrestageError) -> bool:
        """Wrong bytes of a layer, for the first time: its registry may have another place for it."""
        if not isinstance(failure, WrongBytes) or failure.blob.digest in self._again:
            return False
        self._again.add(failure.blob.digest)
        return True

    def may_lose_lease(self) -> bool:
        """Somebody replaced it, or it expired: the next attempt has another one. Not again and again."""
        self.lost += 1
        return self.lost <= _LOST_MOST


def _leading(failures: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What is to be told of several: what interrupts (the rest may come of it), else the first error; None: neither is there."""
    one: BaseException | None = failures.subgroup(Interrupted) or failures.subgroup(PrestageError)
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one
