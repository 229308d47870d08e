"""Room: what is promised to fetches, and the making of it. The owner's; thread-safe.

Invariant 4: used + reserved never exceeds min(budget, used + free - margin). What an ingest preallocates moves from its
artifact's reservation to what is used, so that it counts once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Busy, Full
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.budget import Candidate, Policy, Usage, shown, to_evict, to_give_back
from prestage.cacher.store.disk import disk_errors
from prestage.cacher.store.eviction import SETTLE_S, Evictor, Parts, free_bytes, settled
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.margin import default_margin

KUBELET_FOLDER = Path("/var/lib/kubelet")
"""Where it keeps what it watches the disk for, on nearly every node; give `margin_bytes` where it is elsewhere."""
_ROUNDS = 3
"""How often room is made anew when less was freed than was removed (mapped files, holds that came meanwhile)."""


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
        self._margin = margin_of(parts.layout.root) if margin is None else margin
        self.on_evict: Callable[[Candidate, int, str], None] = lambda candidate, size_bytes, why: None
        """Told of everything that was let go of, its bytes, and what for. Called under `lock`: be quick."""
        self._reservations: list[Reservation] = []
        self.lock = threading.RLock()
        self._staging: Counter[ArtifactId] = Counter()
        self._claims: dict[ArtifactId, set[BlobId]] = {}
        self.busy: set[str] = set()
        """Ingests that are open."""

    @contextmanager
    def staging(self, artifact: ArtifactId) -> Iterator[None]:
        """From before its manifest is kept until its refs are recorded: it is neither evicted nor makes room, and what is claimed
        for it (`Store.reusable`, a published ingest) stays; what was not bound can be let go of at its end."""
        with self.lock:
            self._staging[artifact] += 1
        try:
            yield
        finally:
            with self.lock:
                self._staging[artifact] -= 1
                if not self._staging[artifact]:
                    del self._staging[artifact]
                    self._claims.pop(artifact, None)

    @disk_errors()
    def give_up(self, artifact: ArtifactId) -> None:
        """Forget an artifact that its only stager cannot go on with: for him; everybody else calls `Store.evict`."""
        with self.lock, suppress(Busy):
            if self.stagers(artifact) <= 1:
                self._evictor.evict(artifact, claimed=self.claimed, busy=self.busy)

    def claim(self, artifact: ArtifactId, blob: BlobId) -> None:
        """It was found or published for a binding of `artifact` that is not written yet: not to be removed."""
        with self.lock:
            self._claims.setdefault(artifact, set()).add(blob)

    def bound(self, artifact: ArtifactId, blobs: Collection[BlobId]) -> None:
        """Its binding names them from now on, and keeps them here."""
        with self.lock:
            if (mine := self._claims.get(artifact)) is not None:
                mine.difference_update(blobs)
                if not mine:
                    del self._claims[artifact]

    @property
    def claimed(self) -> frozenset[BlobId]:
        """By anybody."""
        with self.lock:
            return frozenset().union(*self._claims.values())

    @disk_errors()
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
        for _ in range(_ROUNDS):
            usage = self._usage_with(in_place_bytes)
            if usage.room >= size_bytes:
                return
            going = to_evict(size_bytes, usage, self._candidates(staying), self._policy)
            self._let_go(going, f"to make room for {shown(size_bytes)} of {', '.join(sorted(staying))}")
            deadline = time.monotonic() + SETTLE_S
            while self._usage_with(in_place_bytes).room < size_bytes and time.monotonic() < deadline:
                time.sleep(0.01)
        usage = self._usage_with(in_place_bytes)
        if usage.room < size_bytes:
            raise Full(
                f"{shown(size_bytes)} do not fit, {shown(max(0, usage.room))} are free although enough was evicted",
                hint="some process still has evicted files open or mapped: end it, then try again",
            )

    def _usage_with(self, in_place_bytes: int) -> Usage:
        usage = self.usage()
        return replace(usage, free=usage.free + in_place_bytes)

    @disk_errors()
    def give_back(self) -> int:
        """Let go of what nobody holds while less is free than the margin: somebody else writes to this disk. Returns what was
        freed; 0 when all is well, or nothing can go."""
        with self.lock:
            usage = self.usage()
            if usage.room >= 0:
                return 0
            going = to_give_back(usage, self._candidates(set()), self._policy)
            removed = self._let_go(going, "because the disk is filling up")
        return settled(self._parts.layout.root, usage.free, removed)

    @disk_errors()
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
        staying = staying | self._staging.keys() | {reservation.artifact for reservation in self._reservations}
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

    def stagers(self, artifact: ArtifactId) -> int:
        """How many stage it now."""
        with self.lock:
            reserved = any(reservation.artifact == artifact for reservation in self._reservations)
            return max(self._staging[artifact], int(reserved))

    def end(self, reservation: Reservation) -> None:
        """Give back what is left. Idempotent."""
        with self.lock, suppress(ValueError):
            self._reservations.remove(reservation)


def margin_of(root: Path) -> int:
    """What a store there leaves free unless it is told otherwise; see `margin.py`."""
    stat = os.statvfs(root)
    shared = False
    with suppress(OSError):
        shared = root.stat().st_dev == KUBELET_FOLDER.stat().st_dev
    return default_margin(stat.f_blocks * stat.f_frsize, is_shared=shared)


def used_bytes(layout: Layout) -> int:
    """What blobs, ingests and quarantine take on disk, by looking at each: for whoever is not the owner."""
    files = [*layout.blobs.glob("*/*"), *layout.ingests.glob("*/data"), *layout.quarantine.iterdir()]
    return sum(_allocated(path) for path in files if path.suffix != ".meta")


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
