"""The store: bytes at rest on one node. The facade over its rooms; what each guarantees stands there.

    format, locks      may this process touch it          artifacts   manifests, bindings, refs
    ingest, journal    a file being fetched               views       artifacts as trees
    blobs              published content                  holds       who uses what
    budget (pure), eviction, recovery, verify, index (a cache)        disk: the seam every change goes through

Opened with own=True it is this process's to change, under the owner lock; with own=False it is read, and holds are made.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, hex_of
from prestage.cacher.errors import Bug, Corrupt, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.store import format as store_format
from prestage.cacher.store import recovery
from prestage.cacher.store.artifacts import Artifacts, Patterns
from prestage.cacher.store.blobs import BlobMeta, Blobs
from prestage.cacher.store.budget import Usage, to_evict
from prestage.cacher.store.disk import Disk
from prestage.cacher.store.eviction import Eviction
from prestage.cacher.store.holds import Clocks, HoldId, Holds, Kind
from prestage.cacher.store.index import Index
from prestage.cacher.store.ingest import Ingest, allocated_bytes, identity
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import OwnerLock, gate
from prestage.cacher.store.verify import Damage, VerifyReport, check_blob
from prestage.cacher.store.views import Views

MARGIN_BYTES = 1 << 30
"""Left free on the disk whatever the budget says: room for the small files and for whoever shares it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One artifact, as `prestage ls` shows it."""

    artifact: ArtifactId
    ref: str | None
    files: int
    bytes: int
    state: str
    """`staged`, `partial` or `damaged`: docs/cli.md."""
    holds: tuple[Mapping[str, object], ...]
    last_used: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store is opened."""

    budget_bytes: int | None = None
    """Most bytes it may hold; None: what the disk has, less the margin."""
    margin_bytes: int = MARGIN_BYTES
    trusted: frozenset[str] = frozenset()
    """Origin authorities whose stated digests are believed without download."""


class Store:
    """See the module. Thread-safe. Close it."""

    def __init__(self, root: Path, *, settings: Settings, disk: Disk, clocks: Clocks, lock: OwnerLock | None) -> None:
        self.root = root
        self.warnings: list[str] = []
        self._settings, self._disk, self._clocks, self._lock = settings, disk, clocks, lock
        self._layout = Layout(root)
        self._index = Index(self._layout.index)
        self._blobs = Blobs(self._layout, disk)
        self._artifacts = Artifacts(self._layout, disk, clocks.wall)
        self._views = Views(self._layout, disk, self._blobs)
        self._holds = Holds(self._layout, disk, clocks)
        self._eviction = Eviction(
            self._layout,
            disk,
            blobs=self._blobs,
            artifacts=self._artifacts,
            views=self._views,
            holds=self._holds,
            index=self._index,
        )
        self._room = threading.RLock()
        self._reserved: Counter[ArtifactId] = Counter()
        self._blob_bytes = 0

    @staticmethod
    def open(
        root: Path,
        *,
        own: bool,
        budget_bytes: int | None = None,
        margin_bytes: int = MARGIN_BYTES,
        wait_s: float = 0.0,
        trusted: frozenset[str] = frozenset(),
        purpose: str = "",
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
    ) -> Store:
        """Open the store at `root`; `own` makes an empty one where there is none.

        Raises:
            Busy: another process owns it (named), even after `wait_s`.
            NotFound: nothing there and not `own`.
            Misconfigured: not ours to touch: other file system, newer layout, not empty.
        """
        disk, layout = disk or Disk(), Layout(root)
        lock = None
        if own:
            store_format.create(layout, disk)
        store_format.check(layout)
        if own:
            lock = OwnerLock(layout.owner, purpose=purpose, wait_s=wait_s)
        settings = Settings(budget_bytes, margin_bytes, trusted)
        try:
            store = Store(root, settings=settings, disk=disk, clocks=Clocks(wall=now), lock=lock)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        try:
            if own:
                store._recover()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        self._index.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _recover(self) -> None:
        layout = self._layout
        self.warnings = recovery.recover(layout, self._disk, views=self._views, holds=self._holds, eviction=self._eviction)
        known = self._index.has_files()
        self._blob_bytes = self._index.sync(self._blobs.names(), self._read_meta)
        if not known:
            for artifact in self._artifacts.all():
                self._learn_files(artifact, self._artifacts.binding(artifact))

    def _read_meta(self, name: str) -> tuple[int, Sequence[str]]:
        blob = BlobId(f"blake3-tree:{name}")
        size = self._layout.blob(blob).stat().st_blocks * 512
        try:
            return size, sorted(self._blobs.meta(blob).digests)
        except PrestageError:
            return size, ()

    # --- room ---------------------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """What blobs, ingests and quarantine take on disk."""
        blobs = self._blob_bytes
        if self._lock is None:
            blobs = sum(self._read_size(entry) for entry in self._blobs.names().values())
        ingests = sum(allocated_bytes(path) for path in self._layout.ingests.iterdir())
        return blobs + ingests + sum(path.stat().st_blocks * 512 for path in self._layout.quarantine.iterdir())

    @staticmethod
    def _read_size(entry: os.DirEntry[str]) -> int:
        try:
            return entry.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> int:
        """Really free on the disk, for us."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def usage(self) -> Usage:
        """One look at the disk."""
        settings = self._settings
        reserved = sum(self._reserved.values())
        return Usage(self.used_bytes(), reserved, self.free_bytes(), settings.margin_bytes, settings.budget_bytes)

    @contextmanager
    def reserve(self, size_bytes: int, *, artifact: ArtifactId) -> Iterator[None]:
        """Promise room for what is still to be fetched of `artifact`, letting go of what nobody holds if need be.

        What its ingests have allocated already counts once. The promise shrinks as ingests allocate, and ends with the block.

        Raises:
            Full: it does not fit; nothing was fetched or evicted. Says what holds the room.
        """
        manifest = self.manifest(artifact)
        with self._room:
            allocated = sum(allocated_bytes(self._layout.ingest(identity(manifest, file))) for file in manifest.files)
            needed = max(0, size_bytes + 4096 * len(manifest.files) - allocated)
            self._make_room(needed, artifact)
            self._reserved[artifact] += needed
        try:
            yield
        finally:
            with self._room:
                del self._reserved[artifact]

    def _make_room(self, needed: int, artifact: ArtifactId) -> None:
        if needed <= self.usage().room:
            return
        staging = {artifact, *self._reserved}
        self._blob_bytes = max(0, self._blob_bytes - self._eviction.sweep())
        while needed > (usage := self.usage()).room:
            # One at a time, and a fresh look after each: a file that somebody still maps frees nothing.
            chosen = to_evict(needed, usage, self._eviction.candidates(but=staging))
            self._let_go(chosen[0].artifact)

    def _let_go(self, artifact: ArtifactId) -> int:
        freed = self._eviction.evict(artifact)
        self._blob_bytes = max(0, self._blob_bytes - freed)
        return freed

    # --- artifacts ----------------------------------------------------------------------------------------------------

    def put_manifest(self, manifest: Manifest) -> ArtifactId:
        """Remember what an artifact consists of."""
        return self._artifacts.put_manifest(manifest)

    def manifest(self, artifact: ArtifactId) -> Manifest:
        """Raises NotFound, Corrupt."""
        return self._artifacts.manifest(artifact)

    def record_ref(self, name: str, selection: Patterns, artifact: ArtifactId) -> None:
        """Remember what a ref stands for."""
        self._artifacts.record_ref(name, selection, artifact)
        self._index.used(artifact, self._clocks.wall())

    def lookup(self, text: str, selection: Patterns | None = None) -> ArtifactId:
        """The artifact that a ref or an artifact names here. See Artifacts.lookup."""
        return self._artifacts.lookup(text, selection)

    def binding(self, artifact: ArtifactId) -> Mapping[str, BlobId]:
        """Path -> blob, for the files known so far."""
        return self._artifacts.binding(artifact)

    def bind(self, artifact: ArtifactId, files: Mapping[str, BlobId]) -> None:
        """Say what files turned out to be. See Artifacts.bind."""
        self._artifacts.bind(artifact, files)
        self._learn_files(artifact, files)
        with self._room:
            self._eviction.spared.difference_update(files.values())

    def _learn_files(self, artifact: ArtifactId, files: Mapping[str, BlobId]) -> None:
        try:
            manifest = self.manifest(artifact)
        except PrestageError:
            return
        rows = [(identity(manifest, file), hex_of(files[file.path])) for file in manifest.files if file.path in files]
        self._index.add_files(rows)

    def missing(self, artifact: ArtifactId) -> list[FileEntry]:
        """Files whose bytes are not here."""
        binding = self.binding(artifact)
        return [
            file
            for file in self.manifest(artifact).files
            if (blob := binding.get(file.path)) is None or not self._blobs.has(blob)
        ]

    def reusable(self, manifest: Manifest, file: FileEntry) -> BlobId | None:
        """A blob that may stand for `file` without download: design.md, "Trust".

        Only where the bytes came from this very authority before, or the operator trusts what it states; and only by a digest
        that we checked, or by the same file at the same pinned version. A digest that somebody else states is a claim.
        """
        names = self._index.named(file.digest) if file.digest is not None else []
        if file.is_pinned and (same := self._index.file(identity(manifest, file))) is not None:
            names.append(same)
        for name in names:
            blob = BlobId(f"blake3-tree:{name}")
            if not self._blobs.has(blob):
                continue
            try:
                meta = self._blobs.meta(blob)
            except PrestageError:
                continue
            known = manifest.authority in meta.authorities
            if meta.size_bytes == file.size_bytes and (
                known or (manifest.authority in self._settings.trusted and file.digest in meta.digests)
            ):
                with self._room:
                    self._eviction.spared.add(blob)
                return blob
        return None

    # --- bytes --------------------------------------------------------------------------------------------------------

    def ingest(self, manifest: Manifest, file: FileEntry) -> Ingest:
        """Begin or resume fetching a file. Close it, finish it or discard it."""
        folder, artifact = self._layout.ingest(identity(manifest, file)), manifest.artifact
        with self._room:
            before = allocated_bytes(folder)
            ingest = Ingest(folder, manifest, file, disk=self._disk, blobs=self._blobs, on_published=self._published)
            grown = allocated_bytes(folder) - before
            self._reserved[artifact] = max(0, self._reserved[artifact] - grown)
        return ingest

    def _published(self, meta: BlobMeta, is_new: bool) -> None:
        name = hex_of(meta.blob)
        size, digests = self._read_meta(name)
        self._index.add_blob(name, size, digests)
        with self._room:
            self._eviction.spared.add(meta.blob)
            self._blob_bytes += size if is_new else 0

    def publish_view(self, artifact: ArtifactId) -> Path:
        """Make the artifact's tree appear, or heal it. Durable on return."""
        path = self._views.publish(self.manifest(artifact), self.binding(artifact), held=bool(self._holds.live(artifact)))
        self._index.used(artifact, self._clocks.wall())
        return path

    def path(self, artifact: ArtifactId) -> Path:
        """The artifact's directory; counts as a use.

        Raises:
            NotFound: not staged. Corrupt: a file of it was found damaged.
        """
        state = self.state(artifact)
        if state == "damaged":
            raise Corrupt(f"{artifact} has damaged files", hint="stage it again: only those are fetched")
        if state != "staged":
            raise NotFound(f"{artifact} is not staged here (yet)", hint="stage it first: prestage stage REF")
        self._index.used(artifact, self._clocks.wall())
        return self._layout.current(artifact)

    def state(self, artifact: ArtifactId) -> str:
        """`staged`, `partial` or `damaged`."""
        if not self._views.exists(artifact):
            return "partial"
        return "damaged" if self.missing(artifact) else "staged"

    def list(self) -> list[Listing]:
        """Every artifact, whole or not; one whose manifest is damaged is left out."""
        refs = {known.artifact: known.ref for known in self._artifacts.refs()}
        used = self._index.last_used()
        rows = []
        for artifact in self._artifacts.all():
            try:
                manifest, state = self.manifest(artifact), self.state(artifact)
            except PrestageError:
                continue
            holds = tuple({"id": hold, **said} for hold, said in self._holds.live(artifact).items())
            rows.append(
                Listing(artifact, refs.get(artifact), len(manifest.files), manifest.size_bytes, state, holds, used.get(artifact))
            )
        return rows

    # --- holds, eviction, care ----------------------------------------------------------------------------------------

    def hold(
        self, artifact: ArtifactId, *, kind: Kind, expires_at: float | None = None, pid: int | None = None, note: str = ""
    ) -> HoldId:
        """Keep an artifact from being evicted. Works beside an owner.

        Raises:
            NotFound, Corrupt: there is nothing whole to hold.
        """
        with gate(self._layout.gate):
            self.path(artifact)
            return self._holds.add(artifact, kind, expires_at=expires_at, pid=pid, note=note)

    def drop_hold(self, artifact: ArtifactId, hold: HoldId) -> None:
        """End a hold. Idempotent."""
        self._holds.drop(artifact, hold)

    def unpin(self, artifact: ArtifactId) -> int:
        """Take every pin off; returns how many there were."""
        pins = [hold for hold, said in self._holds.all(artifact).items() if said["kind"] == "pin"]
        for hold in pins:
            self._holds.drop(artifact, hold)
        return len(pins)

    def evict(self, artifact: ArtifactId) -> int:
        """Let go of an artifact; returns the bytes that this really freed on the disk.

        Raises:
            Busy: somebody holds it. NotFound: it is not here.
        """
        if self._lock is None:
            raise Bug("only the owner of a store evicts")
        self.manifest(artifact)
        with self._room:
            before = self.free_bytes()
            self._let_go(artifact)
            return max(0, self.free_bytes() - before)

    def verify(
        self, artifact: ArtifactId | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> VerifyReport:
        """Read every byte of an artifact, or of the store, again. The owner quarantines what is damaged."""
        wanted = self._blobs_of([artifact] if artifact is not None else list(self._artifacts.all()))
        report, done = VerifyReport(quarantined=self._lock is not None), 0
        total = sum(size for _, _, size in wanted.values())

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(done, total)

        for blob, (artifacts, paths, _) in wanted.items():
            path = self._layout.blob(blob)
            if not path.exists():
                report.bad.append(Damage(blob, artifacts, paths, "it is missing (an earlier verify quarantined it)"))
                continue
            report.files += 1
            report.bytes += path.stat().st_size
            if (found := check_blob(self._blobs, path, blob, on_bytes)) is not None:
                report.bad.append(Damage(blob, artifacts, paths, found[0], tuple(found[1])))
                if self._lock is not None:
                    self._quarantine(blob)
        return report

    def _quarantine(self, blob: BlobId) -> None:
        with self._room:
            size, _ = self._read_meta(hex_of(blob))
            self._blobs.quarantine(blob)
            self._index.drop_blob(hex_of(blob))
            self._blob_bytes = max(0, self._blob_bytes - size)

    def _blobs_of(self, artifacts: Sequence[ArtifactId]) -> dict[BlobId, tuple[tuple[str, ...], tuple[str, ...], int]]:
        found: dict[BlobId, tuple[tuple[str, ...], tuple[str, ...], int]] = {}
        for artifact in artifacts:
            if not self._views.exists(artifact):
                continue
            sizes = {file.path: file.size_bytes for file in self.manifest(artifact).files}
            for path, blob in self.binding(artifact).items():
                known = found.get(blob, ((), (), 0))
                names = known[0] if artifact in known[0] else (*known[0], artifact)
                found[blob] = (names, (*known[1], path), sizes.get(path, 0))
        return found
