"""Ingests of a store, read while somebody else writes them: which pieces are journaled, and their bytes.

Records are appended after the data is durable and never taken back while the ingest lives, so a reader needs to look only at
what came since. Published, the folder is gone: what was open here says which blob it became (all its records name it), else the
metas do, where the ingest's id is an alias.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.digests import BlobId, piece_count, piece_span, tree_digest
from prestage.cacher.errors import NotFound, PrestageError
from prestage.cacher.serving.protocol import Progress
from prestage.cacher.serving.tree import READ, Content, Tree
from prestage.cacher.store import journal
from prestage.cacher.store.blobs import parse_meta
from prestage.cacher.transfer.ports import PieceRecord

_OPEN_INGESTS = 32
_META_MAX_BYTES = 64 << 10
_UNSETTLED_S = 0.1


@dataclass(slots=True)
class OpenIngest:
    """One ingest's files, open. `refresh` reads what was journaled since."""

    folder: Path
    data: int
    journal: int
    size_bytes: int
    inode: int
    records: dict[int, PieceRecord] = field(default_factory=dict)
    _read_bytes: int = 0

    def refresh(self) -> None:
        """Take in the records that came."""
        size_bytes = os.fstat(self.journal).st_size
        if size_bytes < self._read_bytes:
            self.records, self._read_bytes = {}, 0
        if size_bytes - self._read_bytes >= journal.RECORD_BYTES:
            raw = os.pread(self.journal, size_bytes - self._read_bytes, self._read_bytes)
            fresh, whole = journal.decode(raw, self.size_bytes)
            self.records.update(fresh)
            self._read_bytes += whole

    @property
    def is_there(self) -> bool:
        """Still the ingest of that name."""
        try:
            return (self.folder / "journal").stat().st_ino == os.fstat(self.journal).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return False

    @property
    def blob(self) -> BlobId | None:
        """What it is when all of its pieces are journaled."""
        count = piece_count(self.size_bytes)
        if len(self.records) < count:
            return None
        return tree_digest(self.size_bytes, [self.records[piece].digest for piece in range(count)])

    def close(self) -> None:
        """Idempotent."""
        for fd in (self.data, self.journal):
            if fd >= 0:
                os.close(fd)
        self.data = self.journal = -1


class Ingests:
    """The ingests of one store. Thread-safe. Close it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: OrderedDict[str, OpenIngest] = OrderedDict()
        self._published: OrderedDict[str, BlobId] = OrderedDict()
        self._aliases = Aliases(tree)
        self._lock = threading.Lock()

    def progress(self, ingest_id: str, after: int) -> Progress:
        """Records after the first `after`; all of them if there are not so many (a cursor of another ingest).

        Raises:
            NotFound: nobody fetches it, and nothing was published of it.
        """
        with self._lock:
            ingest = self._look(ingest_id)
            if ingest is not None:
                return _progress(ingest.size_bytes, ingest.records, after)
            blob = self._published_as(ingest_id)
        meta = self._tree.meta(blob)
        return Progress(meta.size_bytes, len(meta.pieces), 0, dict(enumerate(meta.pieces)), blob)

    def piece(self, ingest_id: str, piece: int) -> tuple[Content, bytes] | BlobId | None:
        """A journaled piece's bytes and its BLAKE3; the blob that the ingest became; None when that piece is not there yet.

        Raises:
            NotFound: nobody fetches it, or it has no such piece.
        """
        with self._lock:
            ingest = self._look(ingest_id)
            if ingest is None:
                return self._published_as(ingest_id)
            if piece >= piece_count(ingest.size_bytes):
                raise NotFound(f"the file has no piece {piece}", hint="count them from its size")
            record = ingest.records.get(piece)
            if record is None:
                return None
            start, stop = piece_span(ingest.size_bytes, piece)
            return Content(os.dup(ingest.data), start, stop, ingest.folder / "data", ingest.inode), record.digest

    def close(self) -> None:
        """Drop what is open."""
        with self._lock:
            for ingest in self._open.values():
                ingest.close()
            self._open.clear()

    def _look(self, ingest_id: str) -> OpenIngest | None:
        ingest = self._open.get(ingest_id)
        if ingest is not None and not ingest.is_there:
            self._retire(ingest_id, ingest)
            ingest = None
        if ingest is None:
            ingest = _open_ingest(self._tree.layout.ingest(ingest_id))
            if ingest is None:
                return None
            self._open[ingest_id] = ingest
            if len(self._open) > _OPEN_INGESTS:
                self._open.popitem(last=False)[1].close()
        ingest.refresh()
        return ingest

    def _retire(self, ingest_id: str, ingest: OpenIngest) -> None:
        """Its folder is gone: published or dropped. The journal is still open and says which blob it is, if it is one."""
        del self._open[ingest_id]
        ingest.refresh()
        blob = ingest.blob
        ingest.close()
        if blob is not None:
            self._published[ingest_id] = blob
            if len(self._published) > _OPEN_INGESTS:
                self._published.popitem(last=False)

    def _published_as(self, ingest_id: str) -> BlobId:
        for known in (self._published.get, self._aliases.find):
            if (blob := known(ingest_id)) is not None:
                with suppress(PrestageError):
                    self._tree.meta(blob)
                    return blob
        raise NotFound(f"nobody fetches {ingest_id} here", hint="ask another peer, or fetch it from its origin")


@dataclass(slots=True)
class _Shelf:
    """One folder of blobs/, as it was when it was last read."""

    changed_ns: int = -1
    metas: dict[str, tuple[tuple[int, int], frozenset[bytes]]] = field(default_factory=dict)
    """Hex name of a blob -> which meta that was, and the ids in it."""


class Aliases:
    """Ingest id -> blob, read off the metas. Not thread-safe. A shelf is read again only when it changed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._shelves: defaultdict[str, _Shelf] = defaultdict(_Shelf)
        self._blobs: dict[bytes, str] = {}

    def find(self, ingest_id: str) -> BlobId | None:
        """A blob that says it was fetched as this file. The first call reads every meta: 10^5 of them take seconds."""
        with os.scandir(self._tree.layout.blobs) as entries:
            for entry in entries:
                if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False):
                    self._read_shelf(entry)
        name = self._blobs.get(bytes.fromhex(ingest_id))
        if name is None:
            return None
        blob = BlobId(f"blake3-tree:{name}")
        with suppress(PrestageError):
            if ingest_id in self._tree.full_meta(blob).files:
                return blob
        return None

    def _read_shelf(self, folder: os.DirEntry[str]) -> None:
        shelf, changed_ns = self._shelves[folder.name], folder.stat(follow_symlinks=False).st_mtime_ns
        if shelf.changed_ns == changed_ns:
            return
        metas = {}
        with os.scandir(folder.path) as entries:
            for entry in entries:
                name, _, suffix = entry.name.partition(".")
                if suffix == "meta" and len(name) == 64:
                    with suppress(FileNotFoundError):
                        now = entry.stat(follow_symlinks=False)
                        state = (now.st_ino, now.st_mtime_ns)
                        known = shelf.metas.get(name)
                        ids = known[1] if known is not None and known[0] == state else self._ids(name)
                        metas[name] = (state, ids)
        for name in shelf.metas.keys() - metas.keys():
            for ingest_id in shelf.metas[name][1]:
                if self._blobs.get(ingest_id) == name:
                    del self._blobs[ingest_id]
        self._blobs.update((ingest_id, name) for name, (_, ids) in metas.items() for ingest_id in ids)
        shelf.metas = metas
        # Changed just now, it may be changed again within one tick of the file system's clock.
        shelf.changed_ns = changed_ns if time.time() - changed_ns / 1e9 > _UNSETTLED_S else -1

    def _ids(self, name: str) -> frozenset[bytes]:
        blob = BlobId(f"blake3-tree:{name}")
        with suppress(PrestageError, ValueError):
            return frozenset(bytes.fromhex(one) for one in parse_meta(self._tree.layout.meta(blob).read_bytes(), blob).files)
        return frozenset()


def _progress(size_bytes: int, records: dict[int, PieceRecord], after: int) -> Progress:
    first = after if after <= len(records) else 0
    ordered = list(records.items())[first:]
    return Progress(size_bytes, len(records), first, {piece: record.digest for piece, record in ordered})


def _open_ingest(folder: Path) -> OpenIngest | None:
    """None where nothing is being fetched: no folder, no meta in it (a leftover), or its data is a blob by now."""
    fds: list[int] = []
    try:
        size_bytes = ingest_size((folder / "meta").read_bytes()[:_META_MAX_BYTES])
        fds = [os.open(folder / "data", READ)]
        fds.append(os.open(folder / "journal", READ))
    except (FileNotFoundError, NotADirectoryError):
        size_bytes = None
    if size_bytes is None or len(fds) < 2 or os.fstat(fds[0]).st_size < size_bytes:
        for fd in fds:
            os.close(fd)
        return None
    return OpenIngest(folder, fds[0], fds[1], size_bytes, os.fstat(fds[0]).st_ino)


def ingest_size(raw: bytes) -> int | None:
    """The size that an ingest's meta states, None when it is not one."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, list) or len(fields) != 9 or not isinstance(fields[3], int) or fields[3] < 0:
        return None
    return fields[3]
