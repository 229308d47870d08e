"""Blobs: immutable content under its tree digest, and the meta beside it.

Invariant 1: a path under blobs/ is whole and verified. Publish = data, fsync, meta, fsync, rename, fsync of the directories;
let go = blob first, then meta. So a blob has its meta; a meta without blob is a leftover. The old name of a renamed file that a
power cut brought back is dropped at the next start. Nothing here opens a blob for writing: one whose meta was lost is replaced
as a whole.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prestage.cacher.digests import (
    CHUNK_BYTES,
    CHUNK_SUM_BYTES,
    PIECE_DIGEST_BYTES,
    BlobId,
    chunk_count,
    hex_of,
    piece_count,
    tree_digest,
)
from prestage.cacher.errors import Corrupt, Misconfigured
from prestage.cacher.store.disk import Disk, new_file, write_file
from prestage.cacher.store.index import Index
from prestage.cacher.store.layout import META, Layout

FORMAT = 1


@dataclass(frozen=True, slots=True)
class BlobMeta:
    """What is known of a blob beside its bytes."""

    size_bytes: int
    pieces: tuple[bytes, ...]
    chunk_sums: bytes
    digests: frozenset[str] = frozenset()
    """Other digests of the same bytes, each checked by us."""
    authorities: frozenset[str] = frozenset()
    """Origins it was fetched from."""
    files: frozenset[str] = frozenset()
    """Files of origins that turned out to be this: their identities (`ingest.identity`)."""

    @property
    def blob(self) -> BlobId:
        """Its name."""
        return tree_digest(self.size_bytes, self.pieces)

    def to_bytes(self) -> bytes:
        """The .meta file."""
        document = {
            "format": FORMAT,
            "size": self.size_bytes,
            "pieces": b"".join(self.pieces).hex(),
            "chunk_bytes": CHUNK_BYTES,
            "chunks": self.chunk_sums.hex(),
            "digests": sorted(self.digests),
            "authorities": sorted(self.authorities),
            "files": sorted(self.files),
        }
        return json.dumps(document).encode()


def parse_meta(raw: bytes, blob: BlobId) -> BlobMeta:
    """Read a .meta file and check it against the blob's name.

    Raises:
        Corrupt: damaged, or of another blob.
        Misconfigured: written by a newer version.
    """
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT or document["chunk_bytes"] != CHUNK_BYTES:
            raise Misconfigured(f"the meta of {blob} is of a newer version", hint="upgrade prestage")
        pieces = bytes.fromhex(document["pieces"])
        meta = BlobMeta(
            int(document["size"]),
            tuple(pieces[at : at + PIECE_DIGEST_BYTES] for at in range(0, len(pieces), PIECE_DIGEST_BYTES)),
            bytes.fromhex(document["chunks"]),
            frozenset(str(digest) for digest in document["digests"]),
            frozenset(str(authority) for authority in document["authorities"]),
            frozenset(str(identity) for identity in document["files"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as exc:
        raise Corrupt(f"the meta of {blob} is damaged: {type(exc).__name__}", hint="stage it again") from exc
    whole = len(meta.pieces) == piece_count(meta.size_bytes)
    whole = whole and len(meta.chunk_sums) == CHUNK_SUM_BYTES * chunk_count(meta.size_bytes)
    if not whole or meta.blob != blob:
        raise Corrupt(f"the meta of {blob} is of other bytes", hint="stage it again")
    return meta


class Blobs:
    """The published blobs of one store. Thread-safe. `index` is the owner's."""

    def __init__(self, layout: Layout, disk: Disk, index: Index | None) -> None:
        self._layout, self._disk, self._index = layout, disk, index
        self._lock = threading.Lock()
        self.allocated_bytes = 0
        """What all blobs take on disk; kept by the owner from `count` on."""
        self.lost: int | None = None if index is None else 0
        """How often one went out of use: as long as it stays, what was whole is. None where another process may be the owner."""

    def has(self, blob: BlobId) -> bool:
        """Published and not quarantined."""
        path = str(self._layout.blob(blob))  # asked of every file of an artifact: a Path for each costs more than the look
        return os.path.exists(path) and os.path.exists(f"{path}{META}")  # noqa: PTH110

    def meta(self, blob: BlobId) -> BlobMeta:
        """What is known of a published blob.

        Raises:
            Corrupt: its meta is gone or damaged.
        """
        try:
            raw = self._layout.meta(blob).read_bytes()
        except FileNotFoundError as exc:
            raise Corrupt(f"{blob} has no meta", hint="stage it again") from exc
        return parse_meta(raw, blob)

    def count(self) -> None:
        """Bring the index up to the tree and add up what the blobs take."""
        if self._index is not None:
            self.allocated_bytes = self._index.sync(self.names(), self._row)

    def named(self, alias: str) -> list[BlobId]:
        """Published blobs with this other digest, or fetched as the file of this identity."""
        names = self._index.named(alias) if self._index is not None else []
        return [blob for blob in (BlobId(f"blake3-tree:{name}") for name in names) if self.has(blob)]

    def sizes(self) -> dict[str, int]:
        """Hex name -> bytes on disk, of every blob, by the index."""
        return self._index.sizes() if self._index is not None else {}

    def _row(self, name: str) -> tuple[int, frozenset[str]]:
        blob = BlobId(f"blake3-tree:{name}")
        with suppress(Corrupt, Misconfigured):
            meta = self.meta(blob)
            return self._size(blob), meta.digests | meta.files
        return self._size(blob), frozenset()

    def _size(self, blob: BlobId) -> int:
        try:
            return self._layout.blob(blob).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def publish(self, found: Sequence[tuple[Path, BlobMeta]]) -> None:
        """Move synced and sealed files in place. Existing blobs of their names win and learn what is new. Each step is done for
        all of them before the next, so that the disk is waited for a few times, and not a few times for each."""
        with self._lock:
            fresh: dict[BlobId, tuple[Path, BlobMeta]] = {}
            for data, meta in found:
                blob = meta.blob
                if blob in fresh:
                    first, known = fresh[blob]
                    fresh[blob] = first, _merged(known, meta)
                elif (there := self._known(blob)) is not None:
                    self._learn(there, meta)
                else:
                    fresh[blob] = data, meta
                    continue
                self._disk.unlink(data)
            self._publish_fresh(list(fresh.values()))

    def _publish_fresh(self, fresh: Sequence[tuple[Path, BlobMeta]]) -> None:
        metas = [(self._layout.meta(meta.blob), meta) for _, meta in fresh]
        shelves = list(dict.fromkeys(path.parent for path, _ in metas))
        sizes = [self._size(meta.blob) for _, meta in fresh]
        if absent := [shelf for shelf in shelves if not shelf.is_dir()]:
            for shelf in absent:
                self._disk.make_directory(shelf)
            self._disk.sync_directory(self._layout.blobs)
        besides = [path.with_name(f".{path.name}.new") for path, _ in metas]
        for beside, (_, meta) in zip(besides, metas, strict=True):
            if beside.exists():
                self._disk.unlink(beside)
            new_file(self._disk, beside, meta.to_bytes(), synced=False)
        self._disk.sync_many(besides)
        for beside, (path, _) in zip(besides, metas, strict=True):
            self._disk.rename(beside, path)
        self._disk.sync_many(shelves)
        for data, meta in fresh:
            self._disk.rename(data, self._layout.blob(meta.blob))
        self._disk.sync_many(shelves)
        for before, (_, meta) in zip(sizes, fresh, strict=True):
            self._indexed(meta, before)

    def _known(self, blob: BlobId) -> BlobMeta | None:
        """The meta of a blob that is whole; a blob whose meta was lost or damaged is as good as none."""
        if self._layout.blob(blob).exists():
            with suppress(Corrupt):
                return self.meta(blob)
        return None

    def _learn(self, known: BlobMeta, told: BlobMeta) -> None:
        more = _merged(known, told)
        if more != known:
            write_file(self._disk, self._layout.meta(known.blob), more.to_bytes())
            self._indexed(more, self._size(known.blob))

    def restore_meta(self, meta: BlobMeta) -> None:
        """Write the lost meta of a blob that was read and found right."""
        with self._lock:
            write_file(self._disk, self._layout.meta(meta.blob), meta.to_bytes())

    def _indexed(self, meta: BlobMeta, before_bytes: int) -> None:
        size = self._size(meta.blob)
        self.allocated_bytes += size - before_bytes
        if self._index is not None:
            self._index.add(hex_of(meta.blob), size, meta.digests | meta.files)

    def remove(self, blob: BlobId) -> int:
        """Let go of a blob; returns its size on disk, 0 if it was gone."""
        path = self._layout.blob(blob)
        with self._lock:
            size = self._size(blob)
            if path.exists():
                self._disk.unlink(path)
                self._disk.sync_directory(path.parent)
            self._disk.unlink(self._layout.meta(blob))
            self._gone(blob, size)
        return size

    def quarantine(self, blob: BlobId) -> Path:
        """Take a blob out of use and keep its bytes for a look."""
        path = self._layout.blob(blob)
        target = free_name(self._layout.quarantine, hex_of(blob))
        with self._lock:
            size = self._size(blob)
            self._disk.rename(path, target)
            self._disk.sync_directory(self._layout.quarantine)
            self._disk.sync_directory(path.parent)
            self._disk.unlink(self._layout.meta(blob))
            self._gone(blob, size)
        return target

    def note_verified(self, blob: BlobId, at: float) -> None:
        """It was read whole and found right. Remembered in the index: may be lost."""
        if self._index is not None:
            self._index.note_verified(hex_of(blob), at)

    def last_verified(self) -> dict[BlobId, float]:
        """When each blob was last known to be right, in seconds since the epoch: read whole, else published. The owner's."""
        noted = self._index.verified() if self._index is not None else {}
        found = {}
        for name in self.names():
            blob = BlobId(f"blake3-tree:{name}")
            found[blob] = noted[name] if name in noted else self._published_at(blob)
        return found

    def _published_at(self, blob: BlobId) -> float:
        try:
            return self._layout.meta(blob).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _gone(self, blob: BlobId, size: int) -> None:
        self.allocated_bytes -= size
        if self.lost is not None:
            self.lost += 1
        if self._index is not None:
            self._index.drop(hex_of(blob))

    def names(self) -> frozenset[str]:
        """Hex names of all blobs, by listing; no stat."""
        found: set[str] = set()
        with os.scandir(self._layout.blobs) as shelves:
            for shelf in shelves:
                if len(shelf.name) == 2 and shelf.is_dir(follow_symlinks=False):
                    found.update(name for name in os.listdir(shelf.path) if len(name) == 64)  # noqa: PTH208 - 10^5 names
        return frozenset(found)


def _merged(known: BlobMeta, told: BlobMeta) -> BlobMeta:
    return replace(
        known,
        digests=known.digests | told.digests,
        authorities=known.authorities | told.authorities,
        files=known.files | told.files,
    )


def free_name(folder: Path, stem: str) -> Path:
    """The first of `stem.0`, `stem.1`, ... that is free."""
    number = 0
    while (path := folder / f"{stem}.{number}").exists():
        number += 1
    return path
