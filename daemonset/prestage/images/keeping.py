"""Leases of images while they are wanted: made, renewed by new ones, merged where a kill left two, let go of.

    running attempt     renews its own at half of its life (`stager.py`)
    `renew`             for whoever keeps images staged, when he wants to

A lease cannot be changed: the new one gets everything that the old one holds, then the old one goes. So at every moment one of
them holds each thing, and whoever is killed in between leaves two, which the next call makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, NotFound, PrestageError
from prestage.images import leasing
from prestage.images.leasing import ImageLease, Terms
from prestage.images.pulls import is_pulling
from prestage.images.runtime import Containerd

RENEW_AT = 0.5
"""Of a lease's life: an attempt that runs then makes a new one."""


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
        if self.is_due(lease):
            lease = await self._renewed(lease)
        await self.containerd.snapshots.sweep(lease.id)
        return lease

    async def is_gone(self, lease: ImageLease) -> bool:
        """It was replaced, or has expired. False where containerd does not say."""
        try:
            return lease.id not in {one.id for one in await self.containerd.leases.all()}
        except PrestageError:
            return False

    def is_due(self, lease: ImageLease) -> bool:
        """It is to be made anew."""
        return lease.ends_before(self.now() + (1 - RENEW_AT) * self.lease_s)

    async def renew(self, artifact: ArtifactId) -> None:
        """See `ImageStager.renew`. May be killed anywhere."""
        await self._renewed(await self._merged(await self.known(artifact)))

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

    async def _renewed(self, lease: ImageLease) -> ImageLease:
        """A new one that holds the same."""
        new = leasing.fresh(lease.terms, lease.number + 1, self.now() + self.lease_s)
        await self.containerd.leases.create(new.lease())
        await self._take_over(lease, new)
        return new

    async def _take_over(self, old: ImageLease, new: ImageLease) -> None:
        for resource in await self.containerd.leases.resources(old.id):
            await self.containerd.leases.add(new.id, resource)
        await self.containerd.leases.delete(old.id, collect=False)
