"""A store's tree, read only: no lock, no index, nothing written. What it hands out is verified: blobs whose meta is right, and
pieces that a journal names.

The owner publishes by rename and lets go by unlink (docs/format.md), so that whoever looks without a lock sees a thing whole or
not at all. An open descriptor outlives an evict. It also outlives a quarantine: `is_sound` tells those two apart.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import BlobId
from prestage.cacher.errors import Corrupt, NotFound
from prestage.cacher.serving.protocol import Meta
from prestage.cacher.store import format as formats
from prestage.cacher.store.blobs import BlobMeta, parse_meta
from prestage.cacher.store.layout import Layout

_METAS = 64
"""Metas kept parsed; one of a 100 GB blob takes 1 MiB."""
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Content:
    """The bytes [start, stop) of an open file. Whoever gets it closes it."""

    fd: int
    start: int
    stop: int
    path: Path
    """Where it was opened."""
    inode: int

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Tree:
    """Blobs of one store. Thread-safe."""

    def __init__(self, root: Path) -> None:
        """Raises:
        NotFound: no store there.
        Misconfigured: one that this version, or this mount, must not touch.
        """
        self.layout = Layout(root.absolute())
        formats.check(self.layout)
        self._metas: OrderedDict[BlobId, tuple[tuple[int, int], BlobMeta]] = OrderedDict()
        self._lock = threading.Lock()

    def meta(self, blob: BlobId) -> Meta:
        """What a published blob is proved against.

        Raises:
            NotFound: it is not here.
            Corrupt: its meta is damaged.
        """
        found = self.full_meta(blob)
        return Meta(found.size_bytes, found.pieces, found.chunk_sums)

    def full_meta(self, blob: BlobId) -> BlobMeta:
        """The same, with where it came from. Raises as `meta`."""
        if not self.layout.blob(blob).exists():
            raise NotFound(f"{blob} is not in this store", hint="ask another peer, or fetch it from its origin")
        try:
            fd = os.open(self.layout.meta(blob), READ)
        except FileNotFoundError as exc:
            raise NotFound(f"{blob} is being let go", hint="ask another peer") from exc
        try:
            now = os.fstat(fd)
            state = (now.st_ino, now.st_mtime_ns)
            with self._lock:
                known = self._metas.get(blob)
            if known is not None and known[0] == state:
                return known[1]
            meta = parse_meta(os.read(fd, now.st_size), blob)
        finally:
            os.close(fd)
        with self._lock:
            self._metas[blob] = (state, meta)
            if len(self._metas) > _METAS:
                self._metas.popitem(last=False)
        return meta

    def open(self, blob: BlobId) -> tuple[Content, Meta]:
        """A published blob's bytes, all of them.

        Raises:
            NotFound: it is not here (any more).
            Corrupt: its meta is damaged, or it has another size.
        """
        meta = self.meta(blob)
        path = self.layout.blob(blob)
        try:
            fd = os.open(path, READ)
        except FileNotFoundError as exc:
            raise NotFound(f"{blob} is being let go", hint="ask another peer") from exc
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode) or now.st_size != meta.size_bytes:
            os.close(fd)
            raise Corrupt(f"{blob} has {now.st_size} bytes instead of {meta.size_bytes}", hint="run prestage verify")
        return Content(fd, 0, now.st_size, path, now.st_ino), meta

    def is_sound(self, content: Content) -> bool:
        """False once what is open was quarantined; evicted or published meanwhile it stays right."""
        try:
            if content.path.stat().st_ino == content.inode:
                return True
        except FileNotFoundError:
            pass
        try:
            with os.scandir(self.layout.quarantine) as entries:
                return all(entry.inode() != content.inode for entry in entries)
        except FileNotFoundError:
            return False
