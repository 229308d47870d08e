"""Import: what an export wrote becomes an artifact of this store.

    FILE or pipe --> ring of buffers --> piece digests against the meta, whose name is theirs --> ingest, journaled
                                    `--> digests that the manifest states, in order --> blobs, binding, view, ref

Nothing is published that the archive's own digests and the manifest's do not prove; a cut, damaged or hostile archive is refused
with what is wrong and where. An archive is believed as its giver is in what no digest proves: which bytes a file without a
stated digest had, and what the ref stood for. So such bytes stand for this artifact and for no other.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.archives import layout
from prestage.cacher.archives.layout import BLOCK_BYTES, END, Label, damaged
from prestage.cacher.archives.meter import Meter
from prestage.cacher.digests import (
    CHUNK_BYTES,
    CHUNK_SUM_BYTES,
    PIECE_BYTES,
    BlobId,
    Digest,
    chunk_sum,
    hex_of,
    piece_hasher,
    piece_span,
)
from prestage.cacher.errors import Corrupt, Full, Misconfigured, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, parse_manifest
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import FileRef, HfRef, HttpRef, parse_ref
from prestage.cacher.staging import Staged, Watcher
from prestage.cacher.store.blobs import BlobMeta, parse_meta
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.store import Store
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.ports import Cancelled, PieceRecord

BUFFERS = 4
"""Of a chunk each: one is filled while others are hashed and written."""
_BEHIND_BYTES = 64 << 20
"""How far behind a read the page cache is let go of."""
_JOURNAL_BYTES = 256 << 20


class _In:
    """The archive as it comes in; `at` is how far it was read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._start = os.lseek(fd, 0, os.SEEK_CUR) if self.is_file else 0
        self.at = 0

    def fill(self, view: memoryview) -> None:
        """Raises Corrupt where it ends early."""
        left = view
        while left:
            try:
                count = os.readv(self._fd, [left])
            except OSError as exc:
                raise Unavailable(f"the archive cannot be read: {exc.strerror}", hint="check where it comes from") from exc
            if not count:
                raise damaged("it ends here: it was cut off", self.at)
            before, self.at = self.at, self.at + count
            if self.is_file and before // _BEHIND_BYTES != self.at // _BEHIND_BYTES:
                os.posix_fadvise(self._fd, self._start, self.at, os.POSIX_FADV_DONTNEED)
            left = left[count:]

    def take(self, count: int) -> bytes:
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def next_member(self) -> tuple[str, int]:
        """Name and size of the next member; its bytes follow."""
        began = self.at
        name, size, is_pax = layout.member(self.take(BLOCK_BYTES), began)
        if is_pax:
            stated = layout.pax_size(self.take(size), began)
            self.skip_padding(size)
            name, _, is_pax = layout.member(self.take(BLOCK_BYTES), self.at)
            if is_pax:
                raise damaged("two PAX headers in a row", began)
            size = stated
        return name, size

    def small(self, name: str) -> bytes:
        """The whole next member, which must be `name`."""
        began = self.at
        found, size = self.next_member()
        if found != name or size > layout.small_limit(name):
            raise damaged(f"{found[:80]!r} of {size} bytes stands where {name} belongs", began)
        data = self.take(size)
        self.skip_padding(size)
        return data

    def skip_padding(self, size_bytes: int) -> None:
        if any(self.take(-size_bytes % BLOCK_BYTES)):
            raise damaged("bytes between two members", self.at)

    def end(self) -> None:
        """The end mark, and nothing behind it."""
        if any(self.take(len(END))) or os.read(self._fd, 1):
            raise damaged("something stands behind its end", self.at)


def import_archive(
    store: Store, source: Path | int, *, watcher: Watcher | None = None, cancel: threading.Event | None = None
) -> tuple[Staged, str]:
    """Make the store hold what the archive at `source` (a file, or a descriptor that stays open) holds; blocks. Returns also the
    ref that it is known as, empty if none. Run again after a kill, what was journaled is read, but not written again.

    Raises:
        Corrupt: cut, damaged, or not what its digests say; says what and where. Nothing wrong was published.
        Misconfigured: it cannot be opened, or is of a newer version.
        Full: it does not fit; nothing was written.
    """
    began = time.monotonic()
    if isinstance(source, int):
        return _Import(store, _In(source), watcher or Watcher(), cancel or threading.Event(), began).run()
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Misconfigured(f"{source} cannot be opened: {exc.strerror}", hint="check the file") from exc
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return _Import(store, _In(fd), watcher or Watcher(), cancel or threading.Event(), began).run()
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Import:
    store: Store
    source: _In
    watcher: Watcher
    cancel: threading.Event
    began: float
    sources: dict[str, int] = field(default_factory=dict)

    def run(self) -> tuple[Staged, str]:
        label = layout.parse_label(self.source.small("archive.json"), 0)
        manifest = self._manifest(label)
        binding = layout.parse_binding(self.source.small("binding.json"), manifest, self.source.at)
        with self.store.room.staging(manifest.artifact):
            staged = self._stage(manifest, binding)
            if label.ref:
                self.store.record_ref(label.ref, Selection(label.include, label.exclude), manifest.artifact)
        return staged, label.ref

    def _stage(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> Staged:
        artifact = self.store.put_manifest(manifest)
        missing = self.store.missing(artifact)
        lacking = {binding[file.path]: file.size_bytes for file in missing}
        self.watcher.resolved(manifest, sum(lacking.values()))
        try:
            with self.store.reserve(sum(lacking.values()), artifact=artifact):
                if missing or not self.source.is_file:  # a pipe is read to its end, whoever fills it
                    self._blobs(manifest, binding, {file.path for file in missing})
                    self.source.end()
                else:
                    self._count("store", manifest.size_bytes)
                self.watcher.verifying()
                path = self.store.publish_view(artifact)
        except Full:
            if not self.store.binding(artifact):
                self.store.room.give_up(artifact)
            raise
        files, seconds = len(manifest.files), time.monotonic() - self.began
        return Staged(artifact, path, files, manifest.size_bytes, seconds, self.sources, 0, manifest.weakness)

    def _manifest(self, label: Label) -> Manifest:
        raw = self.source.small("manifest.json")
        try:
            manifest = parse_manifest(raw, label.artifact)
            is_right = not label.ref or _belongs(label.ref, manifest)
        except PrestageError as exc:
            raise damaged(exc.message, self.source.at) from exc
        if not is_right:
            raise damaged(f"it calls itself {label.ref[:200]!r}, its files are of {manifest.authority[:200]!r}", self.source.at)
        return manifest

    def _blobs(self, manifest: Manifest, binding: Mapping[str, BlobId], missing: set[str]) -> None:
        meter = Meter(self.watcher, sum(file.size_bytes for file in manifest.files if file.path in missing), "archive")
        by_blob: dict[BlobId, list[FileEntry]] = {}
        for file in manifest.files:
            by_blob.setdefault(binding[file.path], []).append(file)
        for blob, files in by_blob.items():
            at = self.source.at
            meta = self._meta(blob)
            name, size = self.source.next_member()
            if name != hex_of(blob) or {size} != {meta.size_bytes} | {file.size_bytes for file in files}:
                raise damaged(f"{name[:80]!r} of {size} bytes is not the blob of {files[0].path}", at)
            wanted = [file for file in files if file.path in missing]
            if wanted:
                self._take_in(manifest, meta, files, wanted, meter)
            else:
                self._count("store", size * len(files))
                self._pass_over(size)
            self.source.skip_padding(size)

    def _meta(self, blob: BlobId) -> BlobMeta:
        raw = self.source.small(f"{hex_of(blob)}.meta")
        try:
            return parse_meta(raw, blob)
        except Corrupt as exc:
            raise damaged(exc.message, self.source.at) from exc

    def _take_in(
        self, manifest: Manifest, meta: BlobMeta, files: Sequence[FileEntry], wanted: Sequence[FileEntry], meter: Meter
    ) -> None:
        """One blob, for all files of the manifest that it is."""
        ingest = self.store.ingest(manifest, wanted[0], archive=meta.blob)
        try:
            self._count("journal", sum(record.size_bytes for record in ingest.records().values()))
            checks = _Checks(files)
            with _Receiver(ingest, meta, checks) as receiver:
                for offset in range(0, meta.size_bytes, CHUNK_BYTES):
                    if self.cancel.is_set():
                        raise Cancelled
                    count = min(CHUNK_BYTES, meta.size_bytes - offset)
                    receiver.receive(self.source, offset, count)
                    meter.moved(count)
            self._count("archive", receiver.written_bytes)
            checks.check(self.source.at)
            blob = ingest.finish(digests=checks.digests())
        except Corrupt:
            ingest.discard()
            raise
        finally:
            ingest.close()
        self.store.bind(manifest.artifact, {file.path: blob for file in files})

    def _pass_over(self, size_bytes: int) -> None:
        buffer = aligned_buffer(CHUNK_BYTES)
        for at in range(0, size_bytes, CHUNK_BYTES):
            self.source.fill(buffer[: min(CHUNK_BYTES, size_bytes - at)])

    def _count(self, source: str, size_bytes: int) -> None:
        if size_bytes:
            self.sources[source] = self.sources.get(source, 0) + size_bytes


class _Checks:
    """What the manifest states of one content, checked as it passes by, in order."""

    def __init__(self, files: Sequence[FileEntry]) -> None:
        self._files = files
        stated = [digest for file in files for digest in (file.digest, file.checksum) if digest is not None]
        names = {digest.partition(":")[0] for digest in stated}
        known = {"sha256", "git-sha1", *checksums.ALGORITHMS}
        if unknown := names - known:
            raise Misconfigured(f"the manifest states digests of the unknown kind {min(unknown)[:40]!r}", hint="upgrade prestage")
        size = files[0].size_bytes
        self._hashers = {name: _hasher(name, size) for name in names if name not in checksums.ALGORITHMS}
        self._crcs = dict.fromkeys(names & set(checksums.ALGORITHMS), 0)

    def update(self, view: memoryview) -> None:
        for hasher in self._hashers.values():
            hasher.update(view)
        for name, value in self._crcs.items():
            self._crcs[name] = checksums.algorithm(name).update(view, value)

    def digests(self) -> list[Digest]:
        """Those that name bytes; a CRC does not."""
        return [Digest(f"{name}:{hasher.hexdigest()}") for name, hasher in self._hashers.items()]

    def check(self, at: int) -> None:
        crcs = [f"{name}:{value:0{checksums.algorithm(name).hex_digits}x}" for name, value in self._crcs.items()]
        actual = {digest.partition(":")[0]: digest for digest in [*self.digests(), *crcs]}
        for file in self._files:
            for claim in (file.digest, file.checksum):
                if claim is not None and actual[claim.partition(":")[0]] != claim:
                    raise damaged(
                        f"{file.path}: the manifest states {claim}, its bytes are {actual[claim.partition(':')[0]]}", at
                    )


class _Receiver:
    """Reads chunks into a ring of buffers; one thread proves and writes them, another hashes them in order."""

    def __init__(self, ingest: Ingest, meta: BlobMeta, checks: _Checks) -> None:
        self._ingest, self._meta, self._checks = ingest, meta, checks
        self._had = frozenset(ingest.journaled())
        self._ring: list[tuple[memoryview, list[Future[None]]]] = [(aligned_buffer(CHUNK_BYTES), []) for _ in range(BUFFERS)]
        self._prover = ThreadPoolExecutor(1, thread_name_prefix="prestage-import")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="prestage-digests")
        self._piece = piece_hasher()
        self._crc = 0
        self._unsaved: list[PieceRecord] = []
        self.written_bytes = 0

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pool in (self._prover, self._hasher):
            pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for _buffer, pending in self._ring:
                _all(pending)
            self._save()
        elif not issubclass(kind, Corrupt):
            with suppress(PrestageError):  # what was proved is kept for the next time; the first error is the one to tell
                self._save()

    def receive(self, source: _In, offset: int, count: int) -> None:
        """The next chunk. Raises what went wrong with an earlier one too."""
        buffer, pending = self._ring.pop(0)
        _all(pending)
        view = buffer[:count]
        source.fill(view)
        at = source.at - count
        self._ring.append(
            (buffer, [self._prover.submit(self._prove, view, offset, at), self._hasher.submit(self._checks.update, view)])
        )

    def _prove(self, view: memoryview, offset: int, at: int) -> None:
        number, meta = offset // CHUNK_BYTES, self._meta
        if chunk_sum(view) != meta.chunk_sums[number * CHUNK_SUM_BYTES : (number + 1) * CHUNK_SUM_BYTES]:
            raise damaged("a chunk is not what its sum says", at)
        piece = offset // PIECE_BYTES
        if piece not in self._had:
            self._ingest.write(view, offset)
            self.written_bytes += len(view)
        self._piece.update(view)
        if name := self._ingest.checksum_algorithm:
            self._crc = checksums.algorithm(name).update(view, self._crc)
        start, stop = piece_span(meta.size_bytes, piece)
        if offset + len(view) == stop:
            self._end_piece(piece, stop - start, at)

    def _end_piece(self, piece: int, size_bytes: int, at: int) -> None:
        digest = self._piece.digest()
        if digest != self._meta.pieces[piece]:
            raise damaged("a piece is not what its digest says", at)
        first = piece * (PIECE_BYTES // CHUNK_BYTES) * CHUNK_SUM_BYTES
        sums = self._meta.chunk_sums[first : first + PIECE_BYTES // CHUNK_BYTES * CHUNK_SUM_BYTES]
        if piece not in self._had:
            self._unsaved.append(PieceRecord(piece, size_bytes, digest, sums, self._crc))
        self._piece, self._crc = piece_hasher(), 0
        if sum(record.size_bytes for record in self._unsaved) >= _JOURNAL_BYTES:
            self._save()

    def _save(self) -> None:
        if self._unsaved:
            self._ingest.journal(self._unsaved)
            self._unsaved = []


def _all(waiting: Sequence[Future[None]]) -> None:
    """Wait for each; the first error of one."""
    for future in waiting:
        future.result()


def _belongs(ref: str, manifest: Manifest) -> bool:
    """The ref could stand for files of this authority."""
    parsed = parse_ref(ref)
    authority = manifest.authority
    if parsed.name != ref or parsed.pin is not None:
        return False
    if isinstance(parsed, HfRef):
        return authority.startswith("hf:") and authority.endswith(f"/{parsed.repo}")
    if isinstance(parsed, FileRef):
        return authority.startswith("file:")
    if isinstance(parsed, HttpRef):
        return authority == f"{parsed.scheme}://{parsed.host}"
    return authority.startswith("s3:") and authority.endswith(f"/{parsed.bucket}") and parsed.key.startswith(manifest.base)


def _hasher(name: str, size_bytes: int) -> hashlib._Hash:
    if name == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
