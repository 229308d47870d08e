"""One image into containerd, under a lease of ours: fetch, fill, unpack; goes on wherever it was cut off.

    look      which chains and blobs are there ─▶ plan
    fetch     missing blobs into our store, a few at a time, the lowest layer first
    fill      each, once it is here, into the content store; then our copy goes
    unpack    in order, each on its parent, diff ID checked
    config    last: a lease with the config and the top chain is a staged image

The three run side by side. A pull of the same image, a pause, a lease that is about to expire: each ends the attempt (streams
are closed, fetches journaled), is waited for, and the next attempt looks anew. Nothing is known here but what containerd knows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Full, NotFound, PrestageError
from prestage.images import leasing
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.fetching import Fetcher
from prestage.images.image import Image
from prestage.images.leasing import ImageLease, Terms
from prestage.images.moving import Moving
from prestage.images.plan import Plan, Seen, plan
from prestage.images.progress import Progress
from prestage.images.pulls import LOOK_S, is_pulling, until_pulled
from prestage.images.room import HIGH_WATER, Disk, is_over, why_not
from prestage.images.runtime import Containerd

RENEW_AT = 0.5
"""A lease is renewed when so much of its life is over."""


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
            PrestageError: as its class says; what was fetched and unpacked stays on the lease until that expires.
        """
        began, progress, yielded = time.monotonic(), Progress(), 0
        while True:
            await self._running.wait()
            lease = await self._leased(Terms.of(image, self.containerd.snapshots.snapshotter))
            try:
                await self._attempt(image, lease, fetcher, progress, told)
                break
            except Full:
                await self._drop(leasing.ours(await self.containerd.leases.all(), image.artifact)[image.artifact])
                raise
            except Interrupted as exc:
                progress.stopped(exc.why.value)
                told(progress)
                yielded += exc.why is Why.PULL
                if exc.why is Why.PULL:
                    await until_pulled(self.containerd, image.roots)
        await fetcher.forget(image.blobs)
        seconds = time.monotonic() - began
        return StagedImage(
            image.artifact,
            str(image.name),
            lease.id,
            len(image.layers),
            image.size_bytes,
            progress.fetched_bytes,
            seconds,
            yielded,
        )

    async def renew(self, artifact: ArtifactId) -> None:
        """Keep it for another `lease_s`.

        Raises:
            NotFound: no such image here.
        """
        found = leasing.ours(await self.containerd.leases.all(), artifact).get(artifact)
        if not found:
            raise _unknown(artifact)
        await self._renewed(found[0])

    async def release(self, artifact: ArtifactId) -> None:
        """Let go of it: what no image, container or other lease needs is gone when this returns.

        Raises:
            NotFound: no such image here.
            Busy: a pull of it is running, which may rely on what we hold.
        """
        found = leasing.ours(await self.containerd.leases.all(), artifact).get(artifact)
        if not found:
            raise _unknown(artifact)
        if await is_pulling(self.containerd, found[0].terms.roots):
            raise Busy(f"{found[0].terms.name} is being pulled", hint="release it once that pull has ended")
        await self._drop(found)

    async def _drop(self, leases: Sequence[ImageLease]) -> None:
        for one in leases:
            await self.containerd.snapshots.sweep(one.id)
        for one in leases:
            await self.containerd.leases.delete(one.id, collect=one is leases[-1])

    async def _leased(self, terms: Terms) -> ImageLease:
        """The image's lease, good for a while, with all that earlier ones hold, and nothing half unpacked on it."""
        found = leasing.ours(await self.containerd.leases.all(), terms.artifact).get(terms.artifact, [])
        if not found:
            lease = leasing.fresh(terms, 1, self.now() + self.terms.lease_s)
            await self.containerd.leases.create(lease.lease())
            return lease
        lease, *older = found
        for one in older:
            await self._take_over(one, lease)
        if lease.ends_before(self.now() + RENEW_AT * self.terms.lease_s):
            lease = await self._renewed(lease)
        await self.containerd.snapshots.sweep(lease.id)
        return lease

    async def _renewed(self, lease: ImageLease) -> ImageLease:
        new = leasing.fresh(lease.terms, lease.number + 1, self.now() + self.terms.lease_s)
        await self.containerd.leases.create(new.lease())
        await self._take_over(lease, new)
        return new

    async def _take_over(self, old: ImageLease, new: ImageLease) -> None:
        for resource in await self.containerd.leases.resources(old.id):
            await self.containerd.leases.add(new.id, resource)
        await self.containerd.leases.delete(old.id, collect=False)

    async def _attempt(
        self, image: Image, lease: ImageLease, fetcher: Fetcher, progress: Progress, told: Callable[[Progress], None]
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(image, lease, progress))
                todo = await self._look(image, lease)
                if (disk := self._disk()) is not None and (why := why_not(todo, disk, self.terms.high_water)):
                    raise Full(f"{image.name}: {why}", hint="release other images, or raise the mark")
                progress.begun(todo)
                told(progress)
                moving = Moving(self.containerd, image, lease.id, fetcher, lambda: told(progress), progress)
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

    async def _watch(self, image: Image, lease: ImageLease, progress: Progress) -> None:
        """End the attempt when something else goes first."""
        while True:
            if not self._running.is_set():
                raise Interrupted(Why.PAUSE)
            if await is_pulling(self.containerd, image.roots):
                raise Interrupted(Why.PULL)
            if lease.ends_before(self.now() + RENEW_AT * self.terms.lease_s):
                raise Interrupted(Why.RENEWAL)
            disk = self._disk() if progress.unpacked < progress.unpack_total else None
            if disk is not None and is_over(disk, self.terms.high_water):
                raise Full(f"{image.name}: containerd's disk is {disk.used:.0%} full", hint="release other images")
            await asyncio.sleep(LOOK_S)

    def _disk(self) -> Disk | None:
        """containerd's file system; None where its path is not ours too."""
        root = self.containerd.setup.image_root
        try:
            room = os.statvfs(root) if root else None
        except OSError:
            room = None
        return Disk(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize) if room is not None else None


def _leading(failures: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What is to be told of several: what interrupts (the rest may come of it), else the first error; None: neither is there."""
    one: BaseException | None = failures.subgroup(Interrupted) or failures.subgroup(PrestageError)
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


def _unknown(artifact: ArtifactId) -> NotFound:
    return NotFound(f"{artifact} is not staged here", hint="prestage images list shows what is")
