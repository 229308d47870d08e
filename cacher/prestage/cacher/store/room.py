"""Room: what is promised to fetches, and the making of it. The owner's; thread-safe.

Invariant 4: used + reserved never exceeds min(budget, used + free - margin). What an ingest preallocates moves from its
artifact's reservation to what is used, so that it counts once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Busy, Full
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.budget import Candidate, Policy, Usage, shown, to_evict, to_give_back
from prestage.cacher.store.eviction import Evictor, Parts, free_bytes, settled
from prestage.cacher.store.margin import default_margin

KUBELET_FOLDER = Path("/var/lib/kubelet")
"""Where it keeps what it watches the disk for, on nearly every node; give `margin_bytes` where it is elsewhere."""
_ROUNDS = 3
"""How often room is made anew when less was freed than was removed (mapped files, holds that came meanwhile)."""


class Reservation:
    """Bytes promised to the fetch of one artifact. Leaving its context gives back what is left."""

    def __init__(self, room: Room, artifact: ArtifactId, size_bytes: int) -> None:
        self._room, self.artifact, self.size_bytes = room, artifact, size_bytes

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
        self._margin = _default_margin(parts.layout.root) if margin is None else margin
        self.on_evict: Callable[[Candidate, int, str], None] = lambda candidate, size_bytes, why: None
        """Told of everything that was let go of, its bytes, and what for. Called under `lock`: be quick."""
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
            return Usage(used, reserved, free_bytes(layout.root), self._margin, self._budget)

    def reserve(self, size_bytes: int, artifact: ArtifactId) -> Reservation:
        """Promise room, letting go of what nobody holds if need be.

        Raises:
            Full: it does not fit; says what holds the room.
        """
        with self.lock:
            self._make(size_bytes, {artifact})
            reservation = Reservation(self, artifact, size_bytes)
            self._reservations.append(reservation)
            return reservation

    def _make(self, size_bytes: int, staying: set[ArtifactId]) -> None:
        for _ in range(_ROUNDS):
            usage = self.usage()
            if usage.room >= size_bytes:
                return
            going = to_evict(size_bytes, usage, self._candidates(staying), self._policy)
            settled(self._parts.layout.root, usage.free, self._let_go(going, f"to make room for {shown(size_bytes)}"))
        usage = self.usage()
        if usage.room < size_bytes:
            raise Full(
                f"{shown(size_bytes)} do not fit, {shown(max(0, usage.room))} are free although enough was evicted",
                hint="some process still has evicted files open or mapped: end it, then try again",
            )

    def give_back(self) -> int:
        """Let go of what nobody holds while less is free than the margin: somebody else writes to this disk. Returns what was
        freed; 0 when all is well, or nothing can go."""
        with self.lock:
            usage = self.usage()
            if usage.room >= 0:
                return 0
            going = to_give_back(usage, self._candidates(set()), self._policy)
            return settled(self._parts.layout.root, usage.free, self._let_go(going, "because the disk is filling up"))

    def goes_after(self, artifact: ArtifactId) -> int | None:
        """What must be lacking before `artifact` is let go of: the room that is left and all that goes before it."""
        with self.lock:
            usage, candidates = self.usage(), self._candidates(set())
        before = max(0, usage.room)
        for candidate in self._policy.order([candidate for candidate in candidates if not candidate.holds]):
            if candidate.key == artifact:
                return before
            before += candidate.size_bytes
        return None

    def _candidates(self, staying: set[ArtifactId]) -> list[Candidate]:
        """What could go; what is being fetched, or is in `staying`, is held."""
        staying = staying | {reservation.artifact for reservation in self._reservations}
        return [
            replace(candidate, holds="its fetch") if candidate.key in staying else candidate
            for candidate in self._evictor.candidates(claimed=self.claimed, busy=self.busy)
        ]

    def _let_go(self, going: Sequence[Candidate], why: str) -> int:
        removed = 0
        for candidate in going:
            with suppress(Busy):
                size_bytes = self._evictor.remove(candidate, claimed=self.claimed, busy=self.busy)
                removed += size_bytes
                self.on_evict(candidate, size_bytes, why)
        return removed

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


def _default_margin(root: Path) -> int:
    stat = os.statvfs(root)
    shared = False
    with suppress(OSError):
        shared = root.stat().st_dev == KUBELET_FOLDER.stat().st_dev
    return default_margin(stat.f_blocks * stat.f_frsize, is_shared=shared)
