"""An ingest: one file being fetched, resumable after a kill and after a power cut.

    data      preallocated, written in place with O_DIRECT (buffered where the file system refuses that); or shared with a
              local file (`sharing.py`): then its bytes are there, and only have to be looked at
    journal   which pieces are verified: appended only after fdatasync(data)
    whole     says that `data` was shared
    meta      which file of which origin; written last, so that an ingest without it is a leftover

A **light** one, of a small file, is its data alone: nothing of it is durable before it is published, and nothing outlives it. A
thousand of them cost a few waits for the disk in all (`finish_all`), and after a crash bytes that are soon fetched again.

`write` may be called by many threads, everything else by one at a time.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import rfc8785

from prestage.cacher.digests import BlobId, Digest, piece_count
from prestage.cacher.errors import Bug, Misconfigured, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.store import journal
from prestage.cacher.store.blobs import BlobMeta, Blobs, free_name
from prestage.cacher.store.disk import Disk, make_directories, new_file, remove_tree, translated, write_file
from prestage.cacher.store.sharing import LocalFile, Sharing, share
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.ports import Changed, PieceRecord

BLOCK_BYTES = 4096
"""Logical block of every disk we meet, and what O_DIRECT asks for."""
LIGHT_BYTES = 256 << 10
"""A file up to this size is not worth a journal: its bytes come in less time than its records take."""


def identity(manifest: Manifest, file: FileEntry) -> str:
    """Names one file at one version at one origin, whatever artifact asks for it: 64 hex digits."""
    return hashlib.sha256(rfc8785.dumps(_identifying(manifest, file))).hexdigest()


def _identifying(manifest: Manifest, file: FileEntry) -> list[str | int | None]:
    where: list[str | int | None] = [manifest.authority, manifest.base, file.path, file.size_bytes]
    return [*where, file.digest, file.checksum, file.etag, file.version, file.modified]


def from_archive(name: str, blob: BlobId) -> str:
    """Where the file `name` (its identity) is taken out of an archive that says it is `blob`. Apart from where it is fetched:
    what an archive says of it must not be gone on with from its origin."""
    return hashlib.sha256(f"{name} is {blob}".encode()).hexdigest()


def is_published_too(data: Path) -> bool:
    """`data` is a second name of a blob: a power cut undid half of the rename that published it. Never written to."""
    try:
        return data.stat().st_nlink > 1
    except (FileNotFoundError, NotADirectoryError):
        return False


def drop(disk: Disk, folder: Path) -> None:
    """Remove an ingest; its meta first, so that what is left of it is a leftover."""
    if not folder.exists():
        return
    disk.unlink(folder / "meta")
    remove_tree(disk, folder)
    disk.sync_directory(folder.parent)


def allocated_bytes(folder: Path) -> int:
    """What the ingest in `folder` takes on disk; 0 if there is none."""
    try:
        return (folder / "data").stat().st_blocks * 512
    except (FileNotFoundError, NotADirectoryError):
        return 0


class Ingest:
    """See the module; a `Sink` of the engine. Made by `Store.ingest`; close it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        file: FileEntry,
        *,
        disk: Disk,
        blobs: Blobs,
        local: LocalFile | None = None,
        is_vouched: bool = True,
        on_publish: Callable[[BlobId], None] = lambda _: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.size_bytes = folder, file.size_bytes
        self.id = identity(manifest, file)
        self.checksum_algorithm = _combinable(file)
        self._authority = manifest.authority if is_vouched else None
        self._is_pinned = file.is_pinned and is_vouched
        self.disk, self.blobs, self._local = disk, blobs, local
        self._on_publish, self._on_close = on_publish, on_close
        self._data_path, self._journal_path = folder / "data", folder / "journal"
        self._records: dict[int, PieceRecord] = {}
        self._data = self._journal = -1
        self._is_linked = False
        self.is_light = False
        """Nothing of it is durable before it is published."""
        self._open(manifest, file)

    def _open(self, manifest: Manifest, file: FileEntry) -> None:
        try:
            if not (self.path / "meta").exists() or is_published_too(self._data_path):
                is_copied = self._local is None or self._local.sharing is Sharing.COPY
                self.is_light = file.size_bytes <= LIGHT_BYTES and is_copied
                if self.is_light:
                    self._create_light()
                else:
                    self._create(manifest, file)
            self._open_files()
            if not self.is_light:
                self._read_journal()
        except BaseException:
            self.close()
            raise

    def _create(self, manifest: Manifest, file: FileEntry) -> None:
        drop(self.disk, self.path)
        try:
            make_directories(self.disk, self.path, above=self.path.parent)
            if self._local is not None and share(self.disk, self._local, self._data_path):
                self._is_linked = self._local.sharing is Sharing.LINK
                new_file(self.disk, self.path / "whole", b"")
            else:
                self._create_file(self._data_path, self._rounded)
            self._create_file(self._journal_path, 0)
            self.disk.sync_directory(self.path)
            write_file(self.disk, self.path / "meta", json.dumps(_identifying(manifest, file)).encode())
        except (PrestageError, Changed):
            with suppress(PrestageError):  # the room is for others; what cannot be removed now is removed at the next start
                drop(self.disk, self.path)
            raise

    def _create_light(self) -> None:
        drop(self.disk, self.path)
        try:
            self.disk.make_directory(self.path)
            fd = self.disk.create(self._data_path)
            try:
                self.disk.allocate(fd, self._rounded, self._data_path)
            finally:
                os.close(fd)
        except PrestageError:
            with suppress(PrestageError):
                drop(self.disk, self.path)
            raise

    def _create_file(self, path: Path, size_bytes: int) -> None:
        fd = self.disk.create(path)
        try:
            self.disk.allocate(fd, size_bytes, path)
            self.disk.sync(fd, path)
        finally:
            os.close(fd)

    @property
    def _rounded(self) -> int:
        return -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES

    @property
    def is_whole(self) -> bool:
        """The bytes are there, shared with a local file: what is not journaled has only to be read."""
        return (self.path / "whole").exists()

    def _open_files(self) -> None:
        if not self.is_light:
            self._journal = self.disk.create(self._journal_path)
        # A file that is being taken is its owner's still: opening it for writing would make us the writer that others may not be.
        make = self.disk.open if self._is_linked else self.disk.create
        if not self._is_linked and self._data_path.exists() and self._data_path.stat().st_mode & 0o200 == 0:
            self.disk.set_mode(self._data_path, 0o600)  # a publish was cut off after it sealed the file
        try:
            self._data, self._direct = make(self._data_path, direct=True), True
        except PrestageError as exc:
            if not isinstance(exc.__cause__, OSError) or exc.__cause__.errno != errno.EINVAL:
                raise
            self._data, self._direct = make(self._data_path), False

    def _read_journal(self) -> None:
        raw = _read_all(self._journal)
        self._records, whole = journal.decode(raw, self.size_bytes)
        if os.fstat(self._data).st_size < self.size_bytes:
            self._records, whole = {}, 0
            self.disk.allocate(self._data, self._rounded, self._data_path)
        if whole != len(raw):
            self.disk.truncate(self._journal, whole, self._journal_path)
            self.disk.sync(self._journal, self._journal_path)
        self._journal_bytes = whole

    def journaled(self) -> Collection[int]:
        """Pieces that need not be fetched again."""
        return self._records.keys()

    def records(self) -> Mapping[int, PieceRecord]:
        """What the journal holds."""
        return self._records

    def write(self, buffer: memoryview, offset: int) -> None:
        """See `transfer.ports.Sink.write`."""
        if self._direct and len(buffer) % BLOCK_BYTES:
            buffer = _padded(buffer)
        self.disk.write(self._data, buffer, offset, self._data_path, block=BLOCK_BYTES if self._direct else 1)

    def read(self, buffer: memoryview, offset: int) -> int:
        """Bytes that were written, into the page-aligned `buffer`; fewer only at the end of the file."""
        try:
            count = os.preadv(self._data, [buffer], offset)
        except OSError as exc:
            raise translated(exc, self._data_path) from exc
        return max(0, min(count, self.size_bytes - offset))

    def reread(self, buffer: memoryview, offset: int) -> int:
        """As `read`, for a `buffer` of any length behind which a block may be written."""
        return min(len(buffer), self.read(_padded(buffer) if self._direct else buffer, offset))

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """See `transfer.ports.Sink.journal`; of a light one, remembered alone."""
        if self.is_light:
            self._records.update((record.piece, record) for record in records)
            return
        self.disk.sync_data(self._data, self._data_path)
        raw = b"".join(journal.encode(record) for record in records)
        self.disk.write(self._journal, raw, self._journal_bytes, self._journal_path)
        self.disk.sync_data(self._journal, self._journal_path)
        self._journal_bytes += len(raw)
        self._records.update((record.piece, record) for record in records)

    def finish(self, *, digests: Sequence[Digest] = ()) -> BlobId:
        """Publish: durable on return. An existing blob with this digest wins.

        Raises:
            Bug: a piece is missing.
        """
        return finish_all([(self, digests)])[0]

    def seal(self, digests: Sequence[Digest]) -> BlobMeta:
        """Nothing of it is written any more; what it is. To be synced and published next.

        Raises:
            Bug: a piece is missing.
        """
        ordered = [self._records[piece] for piece in range(piece_count(self.size_bytes)) if piece in self._records]
        if len(ordered) != piece_count(self.size_bytes):
            raise Bug(f"ingest {self.id} is published with {len(ordered)} of {piece_count(self.size_bytes)} pieces")
        meta = BlobMeta(
            self.size_bytes,
            tuple(record.digest for record in ordered),
            b"".join(record.chunk_sums for record in ordered),
            frozenset(digests),
            frozenset({self._authority} if self._authority is not None else ()),
            frozenset({self.id} if self._is_pinned else ()),
        )
        if os.fstat(self._data).st_size != self.size_bytes:
            self.disk.truncate(self._data, self.size_bytes, self._data_path)
        if os.fstat(self._data).st_uid != os.geteuid():
            self.disk.own(self._data, self._data_path)
        self.disk.seal(self._data, self._data_path)
        self._close_files()
        return meta

    @property
    def data(self) -> Path:
        """Its bytes."""
        return self._data_path

    def claim(self, blob: BlobId) -> None:
        """It is about to be published as that."""
        self._on_publish(blob)

    def end(self) -> None:
        """It was published."""
        if self.is_light:
            remove_tree(self.disk, self.path)  # were it brought back by a power cut: without meta it is a leftover
        else:
            drop(self.disk, self.path)
        self._on_close()

    def discard(self) -> None:
        """Drop everything that was fetched."""
        self._close_files()
        drop(self.disk, self.path)
        self._on_close()

    def quarantine(self, why: str) -> Path:
        """Keep the bytes for a look, out of every way; `why` lies beside them. A file that was to be taken stays its owner's."""
        if self._is_linked:
            self.discard()
            return self.path
        self._close_files()
        target = free_name(self.path.parent.parent / "quarantine", self.id)
        self.disk.rename(self._data_path, target)
        self.disk.sync_directory(target.parent)
        write_file(self.disk, target.with_name(f"{target.name}.why"), why.encode())
        drop(self.disk, self.path)
        self._on_close()
        return target

    def close(self) -> None:
        """Keep what was fetched for the next time, if it is not little; of a file that is still somebody else's, no name.
        Idempotent.
        """
        self._close_files()
        if self.is_light:
            remove_tree(self.disk, self.path)
        elif self._is_linked:
            drop(self.disk, self.path)
        self._on_close()

    def _close_files(self) -> None:
        for fd in (self._data, self._journal):
            if fd >= 0:
                os.close(fd)
        self._data = self._journal = -1


def finish_all(found: Sequence[tuple[Ingest, Sequence[Digest]]]) -> list[BlobId]:
    """Publish these of one store: durable on return. Each step is done for all before the next. Existing blobs with these
    digests win.

    Raises:
        Bug: a piece is missing.
    """
    metas = [ingest.seal(digests) for ingest, digests in found]
    if not found:
        return []
    first = found[0][0]
    first.disk.sync_many([ingest.data for ingest, _ in found])
    for (ingest, _), meta in zip(found, metas, strict=True):
        ingest.claim(meta.blob)
    first.blobs.publish([(ingest.data, meta) for (ingest, _), meta in zip(found, metas, strict=True)])
    for ingest, _ in found:
        ingest.end()
    return [meta.blob for meta in metas]


def _combinable(file: FileEntry) -> str | None:
    if file.checksum is None:
        return None
    name = file.checksum.partition(":")[0]
    if name not in checksums.ALGORITHMS:
        raise Misconfigured(f"{file.path}: the manifest states a checksum of the unknown kind {name!r}", hint="upgrade prestage")
    return name


def _padded(buffer: memoryview) -> memoryview:
    """`buffer` and what lies behind it in memory up to the next block; `Sink.write` says that this may be read."""
    length = -(-len(buffer) // BLOCK_BYTES) * BLOCK_BYTES
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return memoryview((ctypes.c_char * length).from_address(address)).cast("B")


def _read_all(fd: int) -> bytes:
    size_bytes = os.fstat(fd).st_size
    return os.pread(fd, size_bytes, 0)
