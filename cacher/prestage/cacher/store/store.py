"""The store: bytes at rest on one file system. What everybody else calls; see docs/format.md for what lies on disk.

It refuses to run on another file system, beside another owner, on a newer layout. Any process of the store's user may open it to
read, to hold and to let go of holds; one, the owner, fetches, evicts and repairs. Everything it says is done is durable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Bug, Busy, Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.store import format as formats
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.artifacts import Artifacts, Patterns
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.budget import Candidate, LeastRecentlyUsed, Policy, Usage
from prestage.cacher.store.disk import Disk, disk_errors
from prestage.cacher.store.eviction import Evictor, Parts, free_bytes, settled
from prestage.cacher.store.holds import Clocks, HoldId, Holds, Kind
from prestage.cacher.store.index import Index
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import OwnerLock, gate
from prestage.cacher.store.recovery import recover
from prestage.cacher.store.room import Reservation, Room
from prestage.cacher.store.scrub import Scrub
from prestage.cacher.store.verify import VerifyReport
from prestage.cacher.store.views import OLD, Views
from prestage.cacher.store.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Listing:
    """One artifact, as `prestage ls` shows it."""

    artifact: ArtifactId
    ref: str | None
    files: int
    bytes: int
    state: str
    """`staged` (whole, verified), `partial` (being fetched, or cut off), `damaged` (stage it again)."""
    holds: Sequence[Mapping[str, object]] = ()
    last_used: float = 0.0
    """Seconds since the epoch."""


class Store:
    """See the module. Made by `Store.open`; thread-safe, but for an ingest, which belongs to one fetch."""

    def __init__(self, parts: Parts, room: Room | None, closing: ExitStack, *, trusted: frozenset[str]) -> None:
        self._parts, self._room, self._closing = parts, room, closing
        self._trusted = trusted
        self._evictor = Evictor(parts)
        self.root = parts.layout.root
        self.wishes = Wishes(parts.layout, parts.disk)
        self.warnings: list[str] = []
        """What was found in the tree that is not ours."""

    @classmethod
    @disk_errors()
    def open(
        cls,
        root: Path,
        *,
        own: bool,
        budget_bytes: int | None = None,
        margin_bytes: int | None = None,
        wait_s: float = 0.0,
        trusted: frozenset[str] = frozenset(),
        purpose: str = "",
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
        policy: Policy | None = None,
        socket: Path | None = None,
    ) -> Store:
        """Open the store at `root`; `own` makes it if there is none, becomes its owner and recovers what was cut off.

        `margin_bytes` is left free on the disk; default: 2 % of it, at most 1 GiB. `trusted` names origin authorities whose
        stated digests are believed. `socket`: where this owner listens, for whoever finds the store owned.

        Raises:
            Busy: another process owns it, for longer than `wait_s`.
            NotFound: there is none, and `own` is not asked for.
            Misconfigured: on another file system, of a newer layout, with something mounted inside, or no store. Untouched.
        """
        layout, disk = Layout(root.absolute()), disk or Disk()
        with ExitStack() as closing:
            if own:
                formats.prepare(layout)
                closing.callback(OwnerLock(layout.owner, purpose=purpose, wait_s=wait_s, socket=socket).close)
                formats.create(layout, disk)
            formats.check(layout)
            index = Index(layout.index) if own else None
            if index is not None:
                closing.callback(index.close)
            blobs = Blobs(layout, disk, index)
            artifacts, holds = Artifacts(layout, disk, now), Holds(layout, disk, Clocks(now))
            parts = Parts(layout, disk, blobs, artifacts, Views(layout, disk, blobs), holds, now)
            evictor = Evictor(parts)
            warnings = recover(parts, evictor) if own else []
            blobs.count()
            policy = policy or LeastRecentlyUsed()
            room = Room(parts, evictor, policy, budget=budget_bytes, margin=margin_bytes) if own else None
            store = cls(parts, room, closing.pop_all(), trusted=trusted)
            store.warnings.extend(warnings)
            return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the store free. Idempotent."""
        self._closing.close()

    @property
    def _owned(self) -> Room:
        if self._room is None:
            raise Bug("a store that was opened to read is written to")
        return self._room

    @disk_errors()
    def used_bytes(self) -> int:
        """What blobs, ingests and quarantine take on disk."""
        if self._room is not None:
            return self._room.usage().used
        layout = self._parts.layout
        files = [*layout.blobs.glob("*/*"), *layout.ingests.glob("*/data"), *layout.quarantine.iterdir()]
        return sum(_allocated(path) for path in files if path.suffix != ".meta")

    @disk_errors()
    def free_bytes(self) -> int:
        """What the file system has left, margin not deducted."""
        return free_bytes(self.root)

    @disk_errors()
    def usage(self) -> Usage:
        """The owner's account of the disk."""
        return self._owned.usage()

    @disk_errors()
    def give_back(self) -> int:
        """Let go of what nobody holds while somebody else fills the disk; returns the bytes freed. See `Room.give_back`."""
        return self._owned.give_back()

    def on_evict(self, told: Callable[[Candidate, int, str], None]) -> None:
        """`told(what, its bytes, why)` is called of everything that is let go of to make room. Be quick."""
        self._owned.on_evict = told

    # -- what is known of artifacts

    @disk_errors()
    def put_manifest(self, manifest: Manifest) -> ArtifactId:
        """Keep a manifest. Idempotent, durable."""
        _ = self._owned
        return self._parts.artifacts.put_manifest(manifest)

    @disk_errors()
    def manifest(self, artifact: ArtifactId) -> Manifest:
        """The files of an artifact.

        Raises:
            NotFound: never staged here.
            Corrupt: its bytes are not what its name says: stage it again.
        """
        return self._parts.artifacts.manifest(artifact)

    @disk_errors()
    def record_ref(self, name: str, selection: Patterns, artifact: ArtifactId) -> None:
        """Remember what a ref with these patterns stands for."""
        self._parts.artifacts.record_ref(name, selection, artifact)

    @disk_errors()
    def lookup(self, text: str, selection: Patterns | None = None) -> ArtifactId:
        """The artifact that a ref or an artifact names here; without `selection`, with whatever patterns it was staged.

        Raises:
            NotFound: not staged here.
            Misconfigured: malformed, or staged with several patterns.
        """
        return self._parts.artifacts.lookup(text, selection)

    @disk_errors()
    def binding(self, artifact: ArtifactId) -> Mapping[str, BlobId]:
        """Path -> blob as far as known; a blob named here may have been quarantined since."""
        return self._parts.artifacts.binding(artifact)

    @disk_errors()
    def bind(self, artifact: ArtifactId, files: Mapping[str, BlobId]) -> None:
        """Add what files turned out to be; the first writer wins.

        Raises:
            Corrupt: a file was bound to another blob before; says both.
        """
        room = self._owned
        with room.lock:
            self._parts.artifacts.bind(artifact, files)
            room.claimed.difference_update(files.values())

    @disk_errors()
    def missing(self, artifact: ArtifactId) -> list[FileEntry]:
        """Files whose bytes are not here."""
        binding = self.binding(artifact)
        files = self.manifest(artifact).files
        return [file for file in files if file.path not in binding or not self._parts.blobs.has(binding[file.path])]

    @disk_errors()
    def reusable(self, manifest: Manifest, file: FileEntry) -> BlobId | None:
        """A blob that may stand for `file` without download: its bytes came from the same authority before, or the authority is
        trusted, and the stated SHA-256, or the very same file at the same version, says that it is the same. Else None:
        knowing a digest grants nothing.
        """
        room = self._owned
        names = [file.digest] if file.digest is not None and file.digest.startswith("sha256:") else []
        if file.is_pinned:
            names.append(ingests.identity(manifest, file))  # type: ignore[arg-type] # an alias is a digest or an identity
        with room.lock:
            for alias in names:
                for blob in self._parts.blobs.named(alias):
                    if self._may_stand_for(blob, alias, manifest, file):
                        room.claimed.add(blob)
                        return blob
        return None

    def _may_stand_for(self, blob: BlobId, alias: str, manifest: Manifest, file: FileEntry) -> bool:
        try:
            meta = self._parts.blobs.meta(blob)
        except PrestageError:
            return False
        if meta.size_bytes != file.size_bytes or alias not in meta.digests | meta.files:
            return False
        return manifest.authority in meta.authorities or manifest.authority in self._trusted

    # -- fetching

    @disk_errors()
    def reserve(self, size_bytes: int, *, artifact: ArtifactId) -> Reservation:
        """Promise room for `size_bytes` of `artifact`, less what its ingests have already; evicts what nobody holds if need be.

        Raises:
            Full: it does not fit; nothing was evicted; says what holds the room.
        """
        pending = padding = 0
        manifest = self.manifest(artifact)
        for file in self.missing(artifact):
            padding += -file.size_bytes % ingests.BLOCK_BYTES
            pending += ingests.allocated_bytes(self._parts.layout.ingest(ingests.identity(manifest, file)))
        return self._owned.reserve(max(0, size_bytes + padding - pending), artifact)

    @disk_errors()
    def ingest(self, manifest: Manifest, file: FileEntry) -> Ingest:
        """Start or resume fetching `file`. Preallocates, out of the artifact's reservation.

        Raises:
            Busy: another fetch in this process has it open.
            Full: no room.
        """
        room = self._owned
        name = ingests.identity(manifest, file)
        folder = self._parts.layout.ingest(name)
        rounded = file.size_bytes + -file.size_bytes % ingests.BLOCK_BYTES
        with room.lock:
            if name in room.busy:
                raise Busy(f"{file.path} of {manifest.authority} is being fetched already", hint="wait for that stage to end")
            with room.allocating(manifest.artifact, ingests.allocated_bytes(folder), rounded):
                room.busy.add(name)
                return Ingest(
                    folder,
                    manifest,
                    file,
                    disk=self._parts.disk,
                    blobs=self._parts.blobs,
                    on_publish=room.claimed.add,
                    on_close=lambda: room.busy.discard(name),
                )

    @disk_errors()
    def publish_view(self, artifact: ArtifactId) -> Path:
        """Make the artifact's tree appear, or heal it. Complete or absent; durable on return.

        Raises:
            Busy: what it needs was evicted meanwhile.
        """
        with self._owned.lock:
            manifest, binding = self.manifest(artifact), self.binding(artifact)
            if missing := self.missing(artifact):
                raise Busy(f"{missing[0].path} of {artifact} was evicted while it was staged", hint="stage it again")
            heals = self._parts.views.exists(artifact) and not self._parts.views.is_right(artifact, binding)
            path = self._publish(manifest, binding)
            self._parts.views.touch(artifact, self._parts.now())
            if heals:
                self._heal_sharers(artifact, set(binding.values()))
            return path

    def _publish(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> Path:
        artifact = manifest.artifact
        with gate(self._parts.layout.gate):
            return self._parts.views.publish(manifest, binding, held=lambda: bool(self._parts.holds.live(artifact)))

    def _heal_sharers(self, healed: ArtifactId, blobs: set[BlobId]) -> None:
        """Other views that link to the bytes which `healed` has just replaced."""
        parts = self._parts
        for artifact in list(parts.artifacts.all()):
            binding = parts.artifacts.binding(artifact)
            if artifact == healed or blobs.isdisjoint(binding.values()) or not parts.views.exists(artifact):
                continue
            if not self.missing(artifact) and not parts.views.is_right(artifact, binding):
                self._publish(self.manifest(artifact), binding)

    # -- using

    @disk_errors()
    def path(self, artifact: ArtifactId) -> Path:
        """The directory of a staged artifact: absolute, read-only, complete. Counts as a use. Hold the artifact to keep it.

        Raises:
            NotFound: not staged, or not whole yet.
            Corrupt: damaged.
        """
        state = self.state(artifact)
        if state == "damaged":
            raise Corrupt(f"{artifact} is damaged on disk", hint="stage it again: only the damaged files are fetched")
        if state == "partial":
            raise NotFound(f"{artifact} is not whole yet", hint="stage it again: it goes on where it was")
        self._parts.views.touch(artifact, self._parts.now())
        return self._parts.layout.current(artifact)

    @disk_errors()
    def state(self, artifact: ArtifactId) -> str:
        """`staged`, `partial` or `damaged`; see `Listing.state`.

        Raises:
            NotFound: unknown here.
        """
        parts = self._parts
        try:
            files = {file.path for file in self.manifest(artifact).files}
        except Corrupt:
            return "damaged"
        if not parts.views.exists(artifact):
            return "partial"
        binding = self.binding(artifact)
        right = binding.keys() == files and all(parts.blobs.has(blob) for blob in binding.values())
        return "staged" if right and parts.views.is_right(artifact, binding) else "damaged"

    @disk_errors()
    def list(self) -> list[Listing]:
        """Every artifact, whole or not."""
        names: dict[ArtifactId, str] = {known.artifact: known.ref for known in self._parts.artifacts.refs()}
        return [self._listing(artifact, names.get(artifact)) for artifact in self._parts.artifacts.all()]

    def _listing(self, artifact: ArtifactId, ref: str | None) -> Listing:
        parts = self._parts
        try:
            manifest = self.manifest(artifact)
            files, size, state = len(manifest.files), manifest.size_bytes, self.state(artifact)
        except PrestageError:
            files, size, state = 0, 0, "damaged"
        holds = [{"id": hold, **document} for hold, document in parts.holds.live(artifact).items()]
        return Listing(artifact, ref, files, size, state, holds, parts.views.last_used(artifact))

    @disk_errors()
    def hold(
        self, artifact: ArtifactId, *, kind: Kind, expires_at: float | None = None, pid: int | None = None, note: str = ""
    ) -> HoldId:
        """Keep a staged artifact from being evicted. Durable on return. `expires_at`: seconds since the epoch, for a ttl;
        `pid`: for a run, default this process.

        Raises:
            NotFound: it is not staged.
        """
        if kind == "ttl" and expires_at is None:
            raise Misconfigured("a ttl hold needs a time at which it ends", hint="give expires_at")
        if kind == "run":
            pid = os.getpid() if pid is None else pid
        with gate(self._parts.layout.gate):
            if not self._parts.views.exists(artifact):
                raise NotFound(f"{artifact} is not staged", hint="stage it first: prestage stage REF")
            return self._parts.holds.add(artifact, kind, expires_at=expires_at, pid=pid, note=note)

    @disk_errors()
    def holds(self, artifact: ArtifactId) -> Mapping[HoldId, Mapping[str, object]]:
        """Who keeps it here now."""
        return self._parts.holds.live(artifact)

    @disk_errors()
    def drop_dead_holds(self) -> None:
        """Remove the files of holds that are over, and the trees that only they kept."""
        with gate(self._parts.layout.gate):
            self._parts.holds.drop_dead()
            for path in self._parts.layout.views.glob(f"*/{OLD}*"):
                artifact = ArtifactId(f"sha256:{path.parent.name}")
                if not self._parts.holds.live(artifact):
                    self._parts.views.remove_old(artifact)

    @disk_errors()
    def goes_after(self, artifact: ArtifactId) -> int | None:
        """Bytes that must be lacking before it is let go of, as things stand; None when it is not among what can go."""
        return self._owned.goes_after(artifact)

    @disk_errors()
    def count(self) -> int:
        """How many artifacts, whole or not."""
        return sum(1 for _ in self._parts.artifacts.all())

    @disk_errors()
    def drop_hold(self, artifact: ArtifactId, hold: HoldId) -> None:
        """Let go of one hold. Idempotent."""
        with gate(self._parts.layout.gate):
            self._parts.holds.drop(artifact, hold)
            if self._room is not None and not self._parts.holds.live(artifact):
                self._parts.views.remove_old(artifact)

    @disk_errors()
    def unpin(self, artifact: ArtifactId) -> int:
        """Let go of all pins; returns how many there were."""
        pins = [hold for hold, document in self._parts.holds.all(artifact).items() if document["kind"] == "pin"]
        for hold in pins:
            self.drop_hold(artifact, hold)
        return len(pins)

    @disk_errors()
    def evict(self, artifact: ArtifactId) -> int:
        """Let go of an artifact and of every blob that nothing else needs. Returns the bytes really freed, by statvfs: none for a
        file that somebody still has open or mapped. Others that write to the disk meanwhile blur it; it never says too much
        for what was removed.

        Raises:
            NotFound: unknown here.
            Busy: held, or being staged; nothing was changed.
        """
        room = self._owned
        if not self._parts.layout.manifest(artifact).exists() and not self._parts.views.exists(artifact):
            raise NotFound(f"{artifact} is not in this store", hint="prestage ls shows what is")
        with room.lock:
            if room.is_reserved(artifact):
                raise Busy(f"{artifact} is being staged", hint="wait for that stage to end")
            before = self.free_bytes()
            removed = self._evictor.evict(artifact, claimed=room.claimed, busy=room.busy)
        return settled(self.root, before, removed)  # may wait for half a second: nobody else has to

    @disk_errors()
    def verify(
        self, artifact: ArtifactId | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> VerifyReport:
        """Read every byte of an artifact, or of the whole store, and compare. The owner quarantines what is damaged: stage it
        again, and just that is fetched. `on_progress(done, total)`: bytes, several times a second.

        Raises:
            NotFound: unknown here.
        """
        return Scrub(self._parts, repair=self._room is not None, on_progress=on_progress).run(artifact)


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
