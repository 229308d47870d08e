"""Room: what is promised to fetches, and the making of it. The owner's; thread-safe.

Invariant 4: used + reserved never exceeds min(budget, used + free - margin). What an ingest preallocates moves from its
artifact's reservation to what is used, so that it counts once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Busy, Full
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.budget import Policy, Usage, shown, to_evict
from prestage.cacher.store.eviction import Evictor, Parts, free_bytes, settled

MARGIN_BYTES_MAX = 1 << 30
MARGIN_DIVISOR = 50
_ROUNDS = 3
"""How often room is made anew when less was freed than was removed (mapped files, holds that came meanwhile)."""


def default_margin(total_bytes: int) -> int:
    """Left free for others and for the store's small files: 2 % of the disk, at most 1 GiB."""
    return min(MARGIN_BYTES_MAX, total_bytes // MARGIN_DIVISOR)


class Reservation:
    """Bytes promised to the fetch of one artifact. Leaving its context gives back what is left."""

    def __init__(self, room: Room, artifact: ArtifactId, size_bytes: int, in_place_bytes: int = 0) -> None:
        self._room, self.artifact, self.size_bytes = room, artifact, size_bytes
        self._in_place_bytes = in_place_bytes

    @property
    def in_place_bytes(self) -> int:
        """Of what is left: on the disk already, so that taking it takes nothing of what is free."""
        return min(self._in_place_bytes, self.size_bytes)

    def release(self, size_bytes: int | None = None) -> None:
        """Give back so many bytes, or all that is left."""
        with self._room.lock:
            self.size_bytes = 0 if size_bytes is None else max(0, self.size_bytes - size_bytes)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.end(self)


class Room:
    """The room of one store."""

    def __init__(self, parts: Parts, evictor: Evictor, policy: Policy, *, budget: int | None, margin: int | None) -> None:
        self._parts, self._evictor, self._policy = parts, evictor, policy
        self._budget = budget
        stat = os.statvfs(parts.layout.root)
        self._margin = default_margin(stat.f_blocks * stat.f_frsize) if margin is None else margin
        self._reservations: list[Reservation] = []
        self.lock = threading.RLock()
        self.claimed: set[BlobId] = set()
        """Found or published for a binding that is not written yet: not to be removed."""
        self.busy: set[str] = set()
        """Ingests that are open."""

    def usage(self) -> Usage:
        """One look at the disk."""
        layout = self._parts.layout
        with self.lock:
            used = self._parts.blobs.allocated_bytes
            used += sum(ingests.allocated_bytes(folder) for folder in layout.ingests.iterdir())
            used += sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(layout.quarantine))
            reserved = sum(reservation.size_bytes for reservation in self._reservations)
            free = free_bytes(layout.root) + sum(reservation.in_place_bytes for reservation in self._reservations)
            return Usage(used, reserved, free, self._margin, self._budget)

    def reserve(self, size_bytes: int, artifact: ArtifactId, in_place_bytes: int = 0) -> Reservation:
        """Promise room, letting go of what nobody holds if need be.

        Raises:
            Full: it does not fit; says what holds the room.
        """
        with self.lock:
            self._make(size_bytes, {artifact}, in_place_bytes)
            reservation = Reservation(self, artifact, size_bytes, in_place_bytes)
            self._reservations.append(reservation)
            return reservation

    def _make(self, size_bytes: int, staying: set[ArtifactId], in_place_bytes: int = 0) -> None:
        staying = staying | {reservation.artifact for reservation in self._reservations}
        for _ in range(_ROUNDS):
            usage = self._usage_with(in_place_bytes)
            if usage.room >= size_bytes:
                return
            candidates = [
                replace(candidate, holds="its fetch") if candidate.key in staying else candidate
                for candidate in self._evictor.candidates(claimed=self.claimed, busy=self.busy)
            ]
            removed, before = 0, free_bytes(self._parts.layout.root)
            for candidate in to_evict(size_bytes, usage, candidates, self._policy):
                with suppress(Busy):
                    removed += self._evictor.remove(candidate, claimed=self.claimed, busy=self.busy)
            settled(self._parts.layout.root, before, removed)
        usage = self._usage_with(in_place_bytes)
        if usage.room < size_bytes:
            raise Full(
                f"{shown(size_bytes)} do not fit, {shown(max(0, usage.room))} are free although enough was evicted",
                hint="some process still has evicted files open or mapped: end it, then try again",
            )

    def _usage_with(self, in_place_bytes: int) -> Usage:
        usage = self.usage()
        return replace(usage, free=usage.free + in_place_bytes)

    @contextmanager
    def allocating(self, artifact: ArtifactId, before_bytes: int, after_bytes: int) -> Iterator[None]:
        """Around a preallocation that grows what is used: out of the artifact's reservation, what it lacks made anew."""
        grown = max(0, after_bytes - before_bytes)
        with self.lock:
            mine = [reservation for reservation in self._reservations if reservation.artifact == artifact]
            lacking = grown - sum(reservation.size_bytes for reservation in mine)
            if lacking > 0:
                self._make(lacking, {artifact})
            yield
            for reservation in mine:
                taken = min(grown, reservation.size_bytes)
                reservation.size_bytes -= taken
                grown -= taken

    def is_reserved(self, artifact: ArtifactId) -> bool:
        """Somebody stages it now."""
        with self.lock:
            return any(reservation.artifact == artifact for reservation in self._reservations)

    def end(self, reservation: Reservation) -> None:
        """Give back what is left. Idempotent."""
        with self.lock, suppress(ValueError):
            self._reservations.remove(reservation)
