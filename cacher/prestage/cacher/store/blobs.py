"""Blobs: immutable content under its tree digest, and the meta beside it.

Invariant 1: a path under blobs/ is whole and verified. Publish = data, fsync, meta, fsync, rename, fsync of the directories;
let go = blob first, then meta. So a blob has its meta; a meta without blob is a leftover.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
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
from prestage.cacher.store.disk import Disk, make_directories, write_file
from prestage.cacher.store.layout import Layout

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
        )
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as exc:
        raise Corrupt(f"the meta of {blob} is damaged: {type(exc).__name__}", hint="stage it again") from exc
    whole = len(meta.pieces) == piece_count(meta.size_bytes)
    whole = whole and len(meta.chunk_sums) == CHUNK_SUM_BYTES * chunk_count(meta.size_bytes)
    if not whole or meta.blob != blob:
        raise Corrupt(f"the meta of {blob} is of other bytes", hint="stage it again")
    return meta


class Blobs:
    """The published blobs of one store. Thread-safe."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout, self._disk = layout, disk
        self._lock = threading.Lock()

    def has(self, blob: BlobId) -> bool:
        """Published and not quarantined."""
        return self._layout.blob(blob).exists()

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

    def publish(self, data: Path, meta: BlobMeta) -> bool:
        """Move the synced and sealed file `data` in place. An existing blob of that name wins, learns what is new, and False."""
        blob = meta.blob
        target = self._layout.blob(blob)
        with self._lock:
            if target.exists():
                self._learn(blob, meta.digests, meta.authorities)
                self._disk.unlink(data)
                return False
            make_directories(self._disk, target.parent, above=self._layout.blobs)
            write_file(self._disk, self._layout.meta(blob), meta.to_bytes())
            self._disk.rename(data, target)
            self._disk.sync_directory(target.parent)
            self._disk.sync_directory(data.parent)
            return True

    def _learn(self, blob: BlobId, digests: Iterable[str], authorities: Iterable[str]) -> None:
        known = self.meta(blob)
        more = replace(known, digests=known.digests | set(digests), authorities=known.authorities | set(authorities))
        if more != known:
            write_file(self._disk, self._layout.meta(blob), more.to_bytes())

    def remove(self, blob: BlobId) -> int:
        """Let go of a blob; returns its size on disk, 0 if it was gone."""
        path = self._layout.blob(blob)
        try:
            size = path.stat().st_blocks * 512
        except FileNotFoundError:
            size = 0
        self._disk.unlink(path)
        self._disk.unlink(self._layout.meta(blob))
        if path.parent.is_dir():
            self._disk.sync_directory(path.parent)
        return size

    def quarantine(self, blob: BlobId) -> Path:
        """Take a blob out of use and keep its bytes for a look."""
        path = self._layout.blob(blob)
        target = free_name(self._layout.quarantine, hex_of(blob))
        self._disk.rename(path, target)
        self._disk.sync_directory(self._layout.quarantine)
        self._disk.unlink(self._layout.meta(blob))
        self._disk.sync_directory(path.parent)
        return target

    def names(self) -> dict[str, os.DirEntry[str]]:
        """Hex names of all blobs, by listing; no stat."""
        found: dict[str, os.DirEntry[str]] = {}
        with os.scandir(self._layout.blobs) as shelves:
            for shelf in shelves:
                if len(shelf.name) != 2 or not shelf.is_dir(follow_symlinks=False):
                    continue
                with os.scandir(shelf.path) as entries:
                    found.update((entry.name, entry) for entry in entries if len(entry.name) == 64)
        return found


def free_name(folder: Path, stem: str) -> Path:
    """The first of `stem.0`, `stem.1`, ... that is free."""
    number = 0
    while (path := folder / f"{stem}.{number}").exists():
        number += 1
    return path
