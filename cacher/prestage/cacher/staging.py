"""Staging: make this store hold an artifact. The one place where origins, the engine and the store meet.

    resolve -> reuse what is here -> reserve -> fetch -> verify -> publish blobs -> bind -> publish the view -> remember the ref

Every step is idempotent and durable before the next: a stage that was killed anywhere is run again and goes on. Two stages of
one artifact at once are one transfer; the second gets the first one's outcome, its error too.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, Digest
from prestage.cacher.errors import Corrupt, Full, NotFound, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins.ports import LocalOrigin, Origin, Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import Ref
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.sharing import InPlace, LocalFile, Sharing
from prestage.cacher.store.store import Store
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.job import Progress, Transfer
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ordered import Follower, Followers
from prestage.cacher.transfer.ports import Cancelled, Changed

_ORDERED = ("sha256", "git-sha1")


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants staged."""

    ref: Ref
    selection: Selection = field(default_factory=Selection)
    priority: Priority = Priority.DECLARED


@dataclass(frozen=True, slots=True)
class Staged:
    """A stage that is done: whole, verified, published."""

    artifact: ArtifactId
    path: Path
    files: int
    bytes: int
    seconds: float
    bytes_by_source: Mapping[str, int]
    """`origin` (and later `peer`): fetched now; `clone`, `moved`: a local file's own blocks; `journal`: fetched by an
    earlier run; `store`: was here already."""
    retries: int = 0
    is_weak: bool = False
    """See `Manifest.weakness`."""


class Watcher:
    """Told how a stage goes on; this one says nothing. Called in the thread that stages."""

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """The files are known; so many bytes are still to fetch."""

    def progress(self, progress: Progress) -> None:
        """Some more bytes came; several times a second."""

    def verifying(self) -> None:
        """All bytes are here; digests in file order are being finished."""

    def trouble(self, why: str) -> None:
        """Something went wrong that is being cured."""


class Stager:
    """Stages into one store with one engine. Thread-safe."""

    def __init__(self, store: Store, engine: Engine, client: HttpClient) -> None:
        self._store, self._engine, self._client = store, engine, client
        self._running: dict[ArtifactId, Future[Staged]] = {}
        self._lock = threading.Lock()

    def stage(self, wish: Wish, origin: Origin, watcher: Watcher | None = None, cancel: threading.Event | None = None) -> Staged:
        """Make the store hold what `wish` names; blocks. What was fetched before a failure is kept for the next call.

        Raises:
            Cancelled: `cancel` was set.
            PrestageError: as its class says; nothing wrong and nothing partial was published.
        """
        began = time.monotonic()
        run = _Run(self._store, self._engine, self._client, origin, watcher or Watcher(), cancel or threading.Event())
        try:
            return self._once(wish, run, run.resolve(wish), began)
        except Changed as first:
            run.watcher.trouble(f"{first}: starting over with the new version")
        try:
            return self._once(wish, run, run.resolve(wish), began)
        except Changed as second:
            raise Unavailable(
                f"{wish.ref.name} changed twice while it was fetched: {second}", hint="stage it once its owner is done uploading"
            ) from second

    def _once(self, wish: Wish, run: _Run, manifest: Manifest, began: float) -> Staged:
        artifact = manifest.artifact
        with self._lock:
            leader = self._running.get(artifact)
            if leader is None:
                mine: Future[Staged] = Future()
                self._running[artifact] = mine
        if leader is not None:
            staged = leader.result()
            self._store.record_ref(wish.ref.name, wish.selection, artifact)
            return staged
        try:
            staged = run.stage(wish, manifest, began)
        except BaseException as exc:
            mine.set_exception(exc)
            raise
        else:
            mine.set_result(staged)
            return staged
        finally:
            with self._lock:
                del self._running[artifact]


@dataclass(slots=True)
class _Run:
    """One stage of one artifact."""

    store: Store
    engine: Engine
    client: HttpClient
    origin: Origin
    watcher: Watcher
    cancel: threading.Event
    sources: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    local: dict[str, LocalFile] = field(default_factory=dict)
    """Files that lie on this machine, and how each can come in."""

    def resolve(self, wish: Wish) -> Manifest:
        manifest = self.origin.resolve(wish.selection)
        if wish.ref.pin is not None and manifest.artifact != wish.ref.pin:
            raise NotFound(
                f"{wish.ref.name} is {manifest.artifact} now, not the pinned {wish.ref.pin}",
                hint="the origin has another version; drop the pin to take it",
            )
        return manifest

    def stage(self, wish: Wish, manifest: Manifest, began: float) -> Staged:
        is_new = self._is_new(manifest.artifact)
        artifact = self.store.put_manifest(manifest)
        missing = self._reuse(artifact, manifest)
        self.watcher.resolved(manifest, sum(file.size_bytes for file in missing))
        if missing:
            self._look_around(manifest, missing)
            in_place = sum(file.size_bytes for file in self.local.values() if file.sharing is not Sharing.COPY)
            try:
                reservation = self.store.reserve(
                    sum(file.size_bytes for file in missing), artifact=artifact, in_place_bytes=in_place
                )
            except Full:
                if is_new:
                    self.store.evict(artifact)
                raise
            with reservation:
                bad = self._fetch(artifact, manifest, missing)
                if bad:
                    self.watcher.trouble("; ".join(str(error) for error in bad.values()) + ": fetching again")
                    bad = self._fetch(artifact, manifest, list(bad))
                if bad:
                    raise next(iter(bad.values()))
        path = self.store.publish_view(artifact)
        self.store.record_ref(wish.ref.name, wish.selection, artifact)
        return Staged(
            artifact,
            path,
            len(manifest.files),
            manifest.size_bytes,
            time.monotonic() - began,
            {source: count for source, count in self.sources.items() if count},
            self.retries,
            manifest.is_weak,
        )

    def _is_new(self, artifact: ArtifactId) -> bool:
        try:
            self.store.manifest(artifact)
        except (NotFound, Corrupt):
            return True
        return False

    def _reuse(self, artifact: ArtifactId, manifest: Manifest) -> list[FileEntry]:
        missing = []
        found: dict[str, BlobId] = {}
        absent = {file.path for file in self.store.missing(artifact)}
        for file in manifest.files:
            if file.path not in absent:
                self.sources["store"] += file.size_bytes
            elif (blob := self.store.reusable(manifest, file)) is not None:
                found[file.path] = blob
                self.sources["store"] += file.size_bytes
            else:
                missing.append(file)
        if found:
            self.store.bind(artifact, found)
        return missing

    def _look_around(self, manifest: Manifest, files: Sequence[FileEntry]) -> None:
        """How each file of a local origin can come in; tried once for each disk it lies on."""
        self.local.clear()
        if not isinstance(self.origin, LocalOrigin):
            return
        known: dict[tuple[int, bool], Sharing] = {}
        for file in files:
            read = self.origin.place(manifest, file)
            path = Path(read.path)
            try:
                kind = (path.stat().st_dev, read.is_given)
            except OSError as exc:
                raise Changed(f"{path} is gone") from exc
            if kind not in known:
                known[kind] = self.store.sources.sharing(path, take=read.is_given)
            self.local[file.path] = LocalFile(path, read.size_bytes, read.modified_ns, known[kind])

    def _fetch(self, artifact: ArtifactId, manifest: Manifest, files: Sequence[FileEntry]) -> dict[FileEntry, Corrupt]:
        """Fetch, verify, publish and bind `files`; what came with a wrong digest is quarantined and returned."""
        ingests: dict[FileEntry, Ingest] = {}
        followers = Followers()
        try:
            transfers = [self._transfer(manifest, file, ingests, followers) for file in files]
            self._move(transfers, followers)
            return self._publish(artifact, transfers, ingests)
        except Changed:
            for ingest in ingests.values():
                ingest.discard()
            raise
        finally:
            followers.finish(wanted=False)
            for ingest in ingests.values():
                ingest.close()

    def _transfer(self, manifest: Manifest, file: FileEntry, ingests: dict[FileEntry, Ingest], followers: Followers) -> Transfer:
        local = self.local.get(file.path)
        ingest = ingests[file] = self.store.ingest(manifest, file, local=local)
        self.sources["journal"] += sum(record.size_bytes for record in ingest.records().values())
        algorithm = (file.digest or "").partition(":")[0]
        follower = Follower(ingest, algorithm) if algorithm in _ORDERED else None
        if follower is not None:
            followers.add(follower)
        if ingest.is_whole:
            there = InPlace(ingest, (local.sharing if local is not None else Sharing.CLONE).value)
            return Transfer(file.path, there, there, follower)
        source = OriginSource(self.origin, self.client, manifest, file, lane=manifest.authority)
        return Transfer(file.path, source, ingest, follower)

    def _move(self, transfers: Sequence[Transfer], followers: Followers) -> None:
        followers.start()
        job = self.engine.fetch(transfers, on_progress=self.watcher.progress, cancel=self.cancel)
        self.sources.update(job.bytes_by_source)
        self.retries += job.retries
        self.watcher.verifying()
        _interruptible(followers, self.cancel)

    def _publish(
        self, artifact: ArtifactId, transfers: Sequence[Transfer], ingests: Mapping[FileEntry, Ingest]
    ) -> dict[FileEntry, Corrupt]:
        bad: dict[FileEntry, Corrupt] = {}
        found: dict[str, BlobId] = {}
        for (file, ingest), transfer in zip(ingests.items(), transfers, strict=True):
            if transfer.follower is not None and transfer.follower.error is not None:
                raise transfer.follower.error
            actual = transfer.follower.digest if transfer.follower is not None else None
            try:
                _check(file, actual, ingest)
            except Corrupt as exc:
                ingest.quarantine(exc.message)
                bad[file] = exc
            else:
                found[file.path] = ingest.finish(digests=[actual] if actual is not None else [])
        if found:
            self.store.bind(artifact, found)
        return bad


def _check(file: FileEntry, digest: Digest | None, ingest: Ingest) -> None:
    """What came against what the origin stated.

    Raises:
        Corrupt: with both digests.
    """
    stated = [(file.digest, digest)] if digest is not None else []
    if file.checksum is not None and ingest.checksum_algorithm is not None:
        records = [record for _, record in sorted(ingest.records().items())]
        stated.append((file.checksum, Digest(checksums.whole(ingest.checksum_algorithm, records))))
    for claim, actual in stated:
        if claim != actual:
            raise Corrupt(
                f"{file.path}: the origin states {claim}, its bytes are {actual}",
                hint="the origin is corrupt or a proxy changes its answers; the bytes are in quarantine/",
            )


def _interruptible(followers: Followers, cancel: threading.Event) -> None:
    waiting = threading.Thread(target=followers.finish, kwargs={"wanted": True}, name="prestage-digests")
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.2)
        if cancel.is_set():
            followers.finish(wanted=False)
            waiting.join()
            raise Cancelled
