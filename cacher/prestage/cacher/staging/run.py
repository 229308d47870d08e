"""One run of a stage: the steps that make one artifact whole, in order, each durable before the next."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, Digest
from prestage.cacher.errors import Corrupt, Full, NotFound
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import Client
from prestage.cacher.origins.ports import LocalOrigin, Origin
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.staging.claims import Claims
from prestage.cacher.staging.wishes import Staged, Watcher
from prestage.cacher.store.in_place import InPlace
from prestage.cacher.store.ingest import Ingest, finish_all, identity
from prestage.cacher.store.sharing import LocalFile, Sharing
from prestage.cacher.store.store import Store
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.job import Job, Progress
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ordered import Follower, Followers
from prestage.cacher.transfer.ports import Cancelled, Changed
from prestage.cacher.transfer.threads import start

FILES_AT_ONCE = 256
"""Fetched, then published together. What a kill takes is no more than the little files among them."""
_ORDERED = ("sha256", "git-sha1")
_CANCEL_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run of one store works with."""

    store: Store
    engine: Engine
    client: Client
    claims: Claims


@dataclass(slots=True)
class Run:
    """One stage of one artifact; one thread runs it, any thread may `urge` it."""

    tools: Tools
    manifest: Manifest
    origin: Origin
    watcher: Watcher
    cancel: threading.Event
    priority: Priority
    job: Job | None = None
    """What the engine is at now."""
    sources: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    local: dict[str, LocalFile] = field(default_factory=dict)
    """Files that lie on this machine, and how each can come in."""
    before_bytes: int = 0
    """What was fetched of files that are published."""
    after_bytes: int = 0
    """Of files that are not begun."""

    @property
    def store(self) -> Store:
        """Where it all ends up."""
        return self.tools.store

    def urge(self, priority: Priority) -> None:
        """Be at least so urgent from now on."""
        if priority < self.priority:
            self.priority = priority
            if (job := self.job) is not None:
                self.tools.engine.urge(job, priority)

    def stage(self) -> Staged:
        """Do it; inside the room's `staging`.

        Raises:
            Cancelled, Changed: nothing wrong was published, what was fetched is kept.
            PrestageError: as its class says.
        """
        began, manifest = time.monotonic(), self.manifest
        is_new = self._is_new(manifest.artifact)
        artifact = self.store.put_manifest(manifest)
        missing = self._reuse(self._present(artifact))
        self.watcher.resolved(manifest, sum(file.size_bytes for file in missing))
        if missing:
            self._look_around(missing)
            in_place = sum(file.size_bytes for file in self.local.values() if file.sharing is not Sharing.COPY)
            try:
                reservation = self.store.reserve(
                    sum(file.size_bytes for file in missing), artifact=artifact, in_place_bytes=in_place
                )
            except Full:
                if is_new:
                    self.store.room.give_up(artifact)
                raise
            with reservation:
                self._bring(missing)
        path = self.store.publish_view(artifact)
        return Staged(
            artifact,
            path,
            len(manifest.files),
            manifest.size_bytes,
            time.monotonic() - began,
            {source: count for source, count in self.sources.items() if count},
            self.retries,
            manifest.weakness,
        )

    def _is_new(self, artifact: ArtifactId) -> bool:
        try:
            self.store.manifest(artifact)
        except (NotFound, Corrupt):
            return True
        return False

    def _present(self, artifact: ArtifactId) -> list[FileEntry]:
        """Count the files whose bytes are bound already; returns the others."""
        absent = {file.path for file in self.store.missing(artifact)}
        self.sources["store"] += sum(file.size_bytes for file in self.manifest.files if file.path not in absent)
        return [file for file in self.manifest.files if file.path in absent]

    def _reuse(self, files: Iterable[FileEntry]) -> list[FileEntry]:
        """Bind those of `files` whose bytes are here under another artifact; returns the others."""
        missing = []
        found: dict[str, BlobId] = {}
        for file in files:
            if (blob := self.store.reusable(self.manifest, file)) is not None:
                found[file.path] = blob
                self.sources["store"] += file.size_bytes
            else:
                missing.append(file)
        if found:
            self.store.bind(self.manifest.artifact, found)
        return missing

    def _look_around(self, files: Sequence[FileEntry]) -> None:
        """How each file of a local origin can come in; tried once for each disk it lies on."""
        self.local.clear()
        if not isinstance(self.origin, LocalOrigin):
            return
        known: dict[tuple[int, bool], Sharing] = {}
        for file in files:
            read = self.origin.place(self.manifest, file)
            path = Path(read.path)
            try:
                kind = (path.stat().st_dev, read.is_given)
            except OSError as exc:
                raise Changed(f"{path} is gone") from exc
            if kind not in known:
                known[kind] = self.store.sources.sharing(path, take=read.is_given)
            self.local[file.path] = LocalFile(path, read.size_bytes, read.modified_ns, known[kind])

    def _bring(self, missing: Sequence[FileEntry]) -> None:
        """Fetch what nobody else fetches just now; then take over what others have brought, or fetch that too."""
        while missing:
            named = {identity(self.manifest, file): file for file in missing}
            mine, theirs = self.tools.claims.take(named, self.urge)
            try:
                self._fetch_in_turn([named[name] for name in mine])
            finally:
                self.tools.claims.give_back(mine)
            for claim in theirs.values():
                claim.urge(self.priority)
                while not claim.given_back.wait(_CANCEL_LOOK_S):
                    self._end_if_cancelled()
                    claim.urge(self.priority)
            missing = self._reuse(named[name] for name in theirs)

    def _end_if_cancelled(self) -> None:
        if self.cancel.is_set():
            raise Cancelled

    def _fetch_in_turn(self, files: Sequence[FileEntry]) -> None:
        for at in range(0, len(files), FILES_AT_ONCE):
            self.after_bytes = sum(file.size_bytes for file in files[at + FILES_AT_ONCE :])
            self._fetch_twice(files[at : at + FILES_AT_ONCE])

    def _fetch_twice(self, files: Sequence[FileEntry]) -> None:
        bad = self._fetch(files)
        if bad:
            self.watcher.trouble("; ".join(str(error) for error in bad.values()) + ": fetching again")
            for file in bad:
                self.origin.refresh(file)  # it may have another place to fetch it from
            bad = self._fetch(list(bad))
        if bad:
            raise next(iter(bad.values()))

    def _fetch(self, files: Sequence[FileEntry]) -> dict[FileEntry, Corrupt]:
        """Fetch, verify, publish and bind `files`; what came with a wrong digest is quarantined and returned."""
        ingests: dict[FileEntry, Ingest] = {}
        followers = Followers()
        try:
            transfers = [self._transfer(file, ingests, followers) for file in files]
            self._move(transfers, followers)
            return self._publish(transfers, ingests)
        except Changed:
            for ingest in ingests.values():
                ingest.discard()
            raise
        finally:
            followers.finish(wanted=False)
            for ingest in ingests.values():
                ingest.close()

    def _transfer(self, file: FileEntry, ingests: dict[FileEntry, Ingest], followers: Followers) -> Transfer:
        local = self.local.get(file.path)
        ingest = ingests[file] = self.store.ingest(self.manifest, file, local=local)
        self.sources["journal"] += sum(record.size_bytes for record in ingest.records().values())
        algorithm = (file.digest or "").partition(":")[0]
        follower = Follower(ingest, algorithm) if algorithm in _ORDERED else None
        if follower is not None:
            followers.add(follower)
        if ingest.is_whole:
            there = InPlace(ingest, (local.sharing if local is not None else Sharing.CLONE).value)
            return Transfer(file.path, there, there, follower)
        source = OriginSource(self.origin, self.tools.client, self.manifest, file, lane=self.manifest.authority)
        return Transfer(file.path, source, ingest, follower)

    def _move(self, transfers: Sequence[Transfer], followers: Followers) -> None:
        followers.start()
        job = self.tools.engine.fetch(
            transfers,
            priority=self.priority,
            on_start=self._started,
            on_progress=self._progressed,
            cancel=self.cancel,
        )
        self.job = None
        self.sources.update(job.bytes_by_source)
        self.retries += job.retries
        self.before_bytes += job.bytes_by_source.total()
        if not self.after_bytes:
            self.watcher.verifying()
        _interruptible(followers, self.cancel)

    def _progressed(self, progress: Progress) -> None:
        """Of this run, not only of the files that are fetched together."""
        self.watcher.progress(
            replace(
                progress,
                bytes_done=self.before_bytes + progress.bytes_done,
                bytes_total=self.before_bytes + progress.bytes_total + self.after_bytes,
                retries=self.retries + progress.retries,
            )
        )

    def _started(self, job: Job) -> None:
        self.job = job
        self.tools.engine.urge(job, self.priority)  # somebody may have urged meanwhile

    def _publish(self, transfers: Sequence[Transfer], ingests: Mapping[FileEntry, Ingest]) -> dict[FileEntry, Corrupt]:
        bad: dict[FileEntry, Corrupt] = {}
        good: dict[str, tuple[Ingest, Sequence[Digest]]] = {}
        for (file, ingest), transfer in zip(ingests.items(), transfers, strict=True):
            actual = transfer.follower.outcome() if transfer.follower is not None else None
            try:
                _check(file, actual, ingest)
            except Corrupt as exc:
                ingest.quarantine(exc.message)
                bad[file] = exc
            else:
                good[file.path] = ingest, [actual] if actual is not None else []
        if good:
            blobs = finish_all(list(good.values()))
            self.store.bind(self.manifest.artifact, dict(zip(good, blobs, strict=True)))
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
    start(waiting)
    while waiting.is_alive():
        waiting.join(_CANCEL_LOOK_S)
        if cancel.is_set():
            followers.finish(wanted=False)
            waiting.join()
            raise Cancelled
