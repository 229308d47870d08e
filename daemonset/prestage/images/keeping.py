"""Leases of images while they are wanted: made, renewed by new ones, merged where a kill left two, let go of.

    running attempt     renews its own at half of its life (`stager.py`)
    `renew_due`         for whoever keeps images staged: at two thirds, which no running attempt lets a lease come to

A lease cannot be changed: the new one gets everything that the old one holds, then the old one goes. So at every moment one of
them holds each thing, and whoever is killed in between leaves two, which the next call makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, NotFound, PrestageError
from prestage.images import leasing
from prestage.images.leasing import ImageLease, Terms
from prestage.images.pulls import is_pulling
from prestage.images.runtime import Containerd

RENEW_AT = 0.5
"""Of a lease's life: an attempt that runs then makes a new one."""
DUE_AT = 2 / 3
"""Of a lease's life: it is renewed from outside."""


@dataclass(frozen=True, slots=True)
class Renewals:
    """What one round came to."""

    renewed: tuple[ArtifactId, ...]
    absent: tuple[ArtifactId, ...]
    """Wanted, and nothing of it is held: to be staged (again)."""
    next_s: float
    """Seconds until the next round has something to do."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """See the module."""

    containerd: Containerd
    lease_s: float
    now: Callable[[], float]

    async def of(self, artifact: ArtifactId) -> Sequence[ImageLease]:
        """Its leases, the newest first."""
        return leasing.ours(await self.containerd.leases.all(), artifact).get(artifact, ())

    async def known(self, artifact: ArtifactId) -> Sequence[ImageLease]:
        """Its leases, at least one.

        Raises:
            NotFound: there is none.
        """
        if not (found := await self.of(artifact)):
            raise NotFound(f"{artifact} is not staged here", hint="prestage images list shows what is")
        return found

    async def for_attempt(self, terms: Terms) -> ImageLease:
        """The image's lease, good for a while, with all that earlier ones hold, and nothing half unpacked on it."""
        if not (found := await self.of(terms.artifact)):
            lease = leasing.fresh(terms, 1, self.now() + self.lease_s)
            await self.containerd.leases.create(lease.lease())
            return lease
        lease = await self._merged(found)
        if self.is_at(lease, RENEW_AT):
            lease = await self.renew(lease)
        await self.containerd.snapshots.sweep(lease.id)
        return lease

    async def is_gone(self, lease: ImageLease) -> bool:
        """It was replaced, or has expired. False where containerd does not say."""
        try:
            return lease.id not in {one.id for one in await self.containerd.leases.all()}
        except PrestageError:
            return False

    def is_at(self, lease: ImageLease, share: float) -> bool:
        """So much of its life is over."""
        return lease.ends_before(self.now() + (1 - share) * self.lease_s)

    async def renew(self, lease: ImageLease) -> ImageLease:
        """A new one that holds the same."""
        new = leasing.fresh(lease.terms, lease.number + 1, self.now() + self.lease_s)
        await self.containerd.leases.create(new.lease())
        await self._take_over(lease, new)
        return new

    async def renew_due(self, wanted: Collection[ArtifactId]) -> Renewals:
        """Renew those of `wanted` that are due; what is not wanted is left to expire. Idempotent; may be killed anywhere."""
        found = leasing.ours(await self.containerd.leases.all())
        renewed, ends = [], []
        for artifact in wanted:
            if artifact not in found:
                continue
            lease = await self._merged(found[artifact])
            if self.is_at(lease, DUE_AT):
                lease = await self.renew(lease)
                renewed.append(artifact)
            ends.append(lease.expires_at)
        absent = tuple(artifact for artifact in wanted if artifact not in found)
        due_at = min(ends, default=self.now() + self.lease_s) - (1 - DUE_AT) * self.lease_s
        return Renewals(tuple(renewed), absent, max(0.0, due_at - self.now()))

    async def release(self, artifact: ArtifactId) -> None:
        """See `ImageStager.release`."""
        found = await self.known(artifact)
        if await is_pulling(self.containerd, found[0].terms.roots):
            raise Busy(f"{found[0].terms.name} is being pulled", hint="release it once that pull has ended")
        await self.drop(found)

    async def drop(self, found: Sequence[ImageLease]) -> None:
        """Hold nothing by them any more; what nobody else holds is gone when this returns."""
        for one in found:
            await self.containerd.snapshots.sweep(one.id)
        for one in found:
            await self.containerd.leases.delete(one.id, collect=one is found[-1])

    async def _merged(self, found: Sequence[ImageLease]) -> ImageLease:
        newest, *older = found
        for one in older:
            await self._take_over(one, newest)
        return newest

    async def _take_over(self, old: ImageLease, new: ImageLease) -> None:
        for resource in await self.containerd.leases.resources(old.id):
            await self.containerd.leases.add(new.id, resource)
        await self.containerd.leases.delete(old.id, collect=False)
