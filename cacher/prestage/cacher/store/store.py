"""The store: bytes at rest on one file system. What everybody else calls; see docs/format.md for what lies on disk.

It refuses to run on another file system, beside another owner, on a newer layout. Any process of the store's user may open it to
read, to hold and to let go of holds; one, the owner, fetches, evicts and repairs. Everything it says is done is durable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Bug, Busy, Corrupt, Misconfigured, NotFound
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.store import format as formats
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.artifacts import Artifacts, KnownRef, Patterns
from prestage.cacher.store.blobs import BlobMeta, Blobs
from prestage.cacher.store.budget import LeastRecentlyUsed, Policy
from prestage.cacher.store.building import Builder
from prestage.cacher.store.composing import Part
from prestage.cacher.store.damage import Damage
from prestage.cacher.store.disk import Disk, disk_errors
from prestage.cacher.store.eviction import Evictor, Parts, free_bytes, settled
from prestage.cacher.store.holds import Clocks, HoldId, Holds, Kind
from prestage.cacher.store.hub_layout import repository_of
from prestage.cacher.store.index import Index
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import OwnerLock, gate
from prestage.cacher.store.mounted import Mounted
from prestage.cacher.store.recovery import recover
from prestage.cacher.store.reuse import reusable
from prestage.cacher.store.room import Reservation, Room, used_bytes
from prestage.cacher.store.scrub import Scrub
from prestage.cacher.store.sharing import LocalFile
from prestage.cacher.store.sources import Sources
from prestage.cacher.store.states import Listing, listings, state_of
from prestage.cacher.store.trees import Terms, Tree, Trees
from prestage.cacher.store.uses import Uses
from prestage.cacher.store.verify import VerifyReport
from prestage.cacher.store.views import Views
from prestage.cacher.store.wishes import Wishes

__all__ = ["Listing", "Store"]


class Store:
    """See the module. Made by `Store.open`; thread-safe, but for an ingest, which belongs to one fetch."""

    def __init__(self, parts: Parts, room: Room | None, closing: ExitStack, *, trusted: Collection[str]) -> None:
        self._parts, self._room, self._closing = parts, room, closing
        self._trusted = trusted
        self._evictor = Evictor(parts)
        self.sources = Sources(parts, self.state)
        """Files outside the store: how they can come in, and which have; the owner's."""
        self.mounted = Mounted(parts)
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
        trusted: Collection[str] = frozenset(),
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
            if own:
                formats.renew(layout, disk)
            index = Index(layout.index) if own else None
            if index is not None:
                closing.callback(index.close)
            blobs = Blobs(layout, disk, index)
            artifacts, holds = Artifacts(layout, disk, now), Holds(layout, disk, Clocks(now))
            views = Views(layout, disk, blobs)
            trees = Trees(layout, disk, artifacts, Builder(layout, disk, blobs, artifacts, views), views, holds)
            parts = Parts(layout, disk, blobs, artifacts, views, holds, trees, Uses(artifacts, blobs), now)
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
        return used_bytes(self._parts.layout)

    @disk_errors()
    def free_bytes(self) -> int:
        """What the file system has left, margin not deducted."""
        return free_bytes(self.root)

    @property
    def room(self) -> Room:
        """What is promised and let go of; the owner's."""
        return self._owned

    @property
    def damage(self) -> Damage:
        """What is done about wrong bytes; the owner's."""
        return Damage(self._parts, self._owned.lock, heal=self.publish_view)

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
            room.bound(artifact, files.values())

    @disk_errors()
    def refs(self, artifact: ArtifactId) -> Sequence[KnownRef]:
        """What it is known as."""
        return [known for known in self._parts.artifacts.refs() if known.artifact == artifact]

    @disk_errors()
    def meta(self, blob: BlobId) -> BlobMeta:
        """What is known of a blob.

        Raises:
            Corrupt: its meta is gone or damaged.
        """
        return self._parts.blobs.meta(blob)

    def blob_path(self, blob: BlobId) -> Path:
        """Where a blob's bytes are: immutable, and there for as long as an artifact that is held names it."""
        return self._parts.layout.blob(blob)

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
        with room.lock:
            blob = reusable(self._parts, manifest, file, self._trusted)
            if blob is not None:
                room.claim(manifest.artifact, blob)
            return blob

    @disk_errors()
    def reserve(self, size_bytes: int, *, artifact: ArtifactId, in_place_bytes: int = 0) -> Reservation:
        """Promise room for `size_bytes` of `artifact`, less what its ingests have already; evicts what nobody holds if need be.
        `in_place_bytes` of them are on this file system already and will be shared: they need budget, but no free space.

        Raises:
            Full: it does not fit; nothing was evicted; says what holds the room.
        """
        pending = padding = 0
        manifest = self.manifest(artifact)
        for file in self.missing(artifact):
            padding += -file.size_bytes % ingests.BLOCK_BYTES
            pending += ingests.allocated_bytes(self._parts.layout.ingest(ingests.identity(manifest, file)))
        needed = max(0, size_bytes + padding - pending)
        return self._owned.reserve(needed, artifact, min(needed, in_place_bytes))

    @disk_errors()
    def ingest(
        self, manifest: Manifest, file: FileEntry, *, local: LocalFile | None = None, archive: BlobId | None = None
    ) -> Ingest:
        """Start or resume fetching `file`. Preallocates, out of the artifact's reservation; or shares the blocks of `local`.
        `archive`: what an archive says it is; without a stated digest it will stand for this artifact's file and no other.

        Raises:
            Changed: `local` is not what it was.
            Busy: another fetch in this process has it open.
            Full: no room.
        """
        room = self._owned
        name = ingests.identity(manifest, file)
        if archive is not None:
            name = ingests.from_archive(name, archive)
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
                    local=local,
                    is_vouched=archive is None or file.digest is not None,
                    on_publish=partial(room.claim, manifest.artifact),
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
                with gate(self._parts.layout.gate):
                    self._parts.trees.heal(set(binding.values()))
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
        return state_of(self._parts, artifact)

    @disk_errors()
    def list(self) -> list[Listing]:
        """Every artifact, whole or not."""
        return listings(self._parts)

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
    def count(self) -> int:
        """How many artifacts, whole or not."""
        return sum(1 for _ in self._parts.artifacts.all())

    @disk_errors()
    def drop_hold(self, artifact: ArtifactId, hold: HoldId) -> None:
        """Let go of one hold; if it is a tree's, of the tree. Idempotent."""
        with gate(self._parts.layout.gate):
            held = self._parts.trees.remove(hold) if self._parts.trees.get(hold) is not None else ()
            self._parts.holds.drop(artifact, hold)
            self._remove_old({artifact, *held})

    def _remove_old(self, artifacts: Iterable[ArtifactId]) -> None:
        """What heals replaced and nobody holds any more; inside the gate."""
        for artifact in artifacts if self._room is not None else ():
            if not self._parts.holds.live(artifact):
                self._parts.views.remove_old(artifact)

    @disk_errors()
    def unpin(self, artifact: ArtifactId) -> int:
        """Let go of all pins; returns how many there were."""
        pins = [hold for hold, document in self._parts.holds.all(artifact).items() if document["kind"] == "pin"]
        for hold in pins:
            self.drop_hold(artifact, hold)
        return len(pins)

    @disk_errors()
    def part(self, name: str, text: str, *, selection: Patterns | None = None, repo: str | None = None) -> Part:
        """What `text`, a ref or an artifact, is as a part of a tree. `repo`: the model repository that a foreign client is to
        find it as; default: the one that it came from, none if it did not come from a hub.

        Raises:
            NotFound: not staged here.
            Misconfigured: malformed, or staged with several patterns.
        """
        artifact = self.lookup(text, selection)
        repo = repo or repository_of(self.manifest(artifact))
        return Part(name, artifact, repo, self._parts.artifacts.revision_of(text, artifact) if repo else None)

    @disk_errors()
    def compose(self, parts: Sequence[Part], terms: Terms, *, is_flat: bool = False) -> Tree:
        """Hold the artifacts of `parts` and put them together as one read-only directory; see docs/format.md, "mounts". Counts as
        a use of each. Needs no owner. A mount whose target has just this tree gets it. Durable on return, else nothing is left.

        Raises:
            Misconfigured: parts that do not go together; says which.
            NotFound: one is not staged.
            Corrupt: one is damaged.
        """
        with gate(self._parts.layout.gate):
            tree = self._parts.trees.make(parts, terms, is_flat=is_flat)
        for part in parts:
            self._parts.views.touch(part.artifact, self._parts.now())
        return tree

    @disk_errors()
    def drop_tree(self, hold: HoldId) -> None:
        """Let go of a tree and of what it holds. Idempotent. Who has its files open or mapped keeps their bytes."""
        with gate(self._parts.layout.gate):
            self._remove_old(self._parts.trees.remove(hold))

    @disk_errors()
    def trees(self) -> Sequence[Tree]:
        """The trees that are there."""
        return list(self._parts.trees.all())

    @disk_errors()
    def sweep(self) -> Sequence[HoldId]:
        """Remove what is over: trees whose hold has ended, files of ended holds, what heals replaced and nobody holds any more.
        For an owner that lives long, every minute. Returns the trees that went.
        """
        _ = self._owned
        parts = self._parts
        with gate(parts.layout.gate):
            gone = parts.trees.sweep()
            parts.holds.drop_dead()
            self._remove_old(parts.artifacts.all())
        return gone

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
            if room.stagers(artifact):
                raise Busy(f"{artifact} is being staged", hint="wait for that stage to end")
            before = self.free_bytes()
            removed = self._evictor.evict(artifact, claimed=room.claimed, busy=room.busy)
        return settled(self.root, before, removed)  # may wait: nobody else has to

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
