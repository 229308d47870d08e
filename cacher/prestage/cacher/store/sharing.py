"""Bytes that are on this file system already: shared, not fetched.

    link    the file itself becomes an ingest's data, under a second name: for files that are given away (`--take`)
    clone   FICLONE (xfs, btrfs): blocks are shared, a later write to either file is not seen by the other
    copy    neither is possible here: the engine reads the file as it reads any source

Never a hardlink to what somebody else may still write: whoever gives a file away proves that nobody has it open for writing
and takes its old name away in the end (`taking.py`). What is shared was read by nobody yet: `InPlace` is the engine's source and
sink for it, which reads the ingest's own data, so that the clone is what is verified.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from prestage.cacher.errors import PrestageError, Unavailable
from prestage.cacher.store.disk import Disk
from prestage.cacher.transfer.ports import Changed, Fatal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from prestage.cacher.store.ingest import Ingest
    from prestage.cacher.transfer.ports import PieceRecord


class Sharing(Enum):
    """How a local file's bytes come in."""

    LINK = "moved"
    CLONE = "clone"
    COPY = "origin"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file outside the store, as it was when it was pinned."""

    path: Path
    size_bytes: int
    modified_ns: int
    sharing: Sharing = Sharing.COPY


def probe(disk: Disk, beside: Path, source: Path, *, take: bool) -> Sharing:
    """How `source` can come in, found out by doing it to the unused name `beside`, which is gone again on return."""
    try:
        if take:
            with suppress(PrestageError):
                disk.link(source, beside)
                return Sharing.LINK
        with suppress(PrestageError):
            clone(disk, source, beside)
            return Sharing.CLONE
        return Sharing.COPY
    finally:
        disk.unlink(beside)


def clone(disk: Disk, source: Path, target: Path) -> None:
    """Make the new file `target` from the blocks of `source`. Not durable yet.

    Raises:
        PrestageError: this file system cannot, or `source` cannot be read.
    """
    from_fd = disk.open(source)
    try:
        fd = disk.create(target)
        try:
            disk.clone(fd, from_fd, target)
        finally:
            os.close(fd)
    finally:
        os.close(from_fd)


def share(disk: Disk, local: LocalFile, data: Path) -> bool:
    """Make `data`, which does not exist, from the file's own blocks; durable but for its name. False: copy it.

    Raises:
        Changed: the file is not what was pinned any more.
    """
    if local.sharing is Sharing.COPY:
        return False
    try:
        disk.link(local.path, data) if local.sharing is Sharing.LINK else clone(disk, local.path, data)
    except PrestageError:
        disk.unlink(data)
        return False
    for path in (local.path, data):
        _check_unchanged(path, local, is_source=path == local.path)
    fd = disk.open(data)
    try:
        disk.sync(fd, data)
    finally:
        os.close(fd)
    return True


def _check_unchanged(path: Path, local: LocalFile, *, is_source: bool) -> None:
    try:
        status = path.stat()
    except OSError as exc:
        raise Changed(f"{local.path} is gone") from exc
    if status.st_size != local.size_bytes or (is_source and status.st_mtime_ns != local.modified_ns):
        raise Changed(f"{local.path} changed while it was taken in")


@dataclass(slots=True)
class _Reread:
    """A range of an ingest's own data."""

    ingest: Ingest
    at: int
    stop: int

    def readinto(self, buffer: memoryview) -> int:
        """See `transfer.ports.Stream`."""
        view = buffer[: self.stop - self.at]
        done = self.ingest.reread(view, self.at)
        if done < len(view):
            raise Fatal(Unavailable(f"{self.ingest.path} is shorter than it was", hint="check the disk: the kernel log"))
        self.at += done
        return done

    def abort(self) -> None:
        """A local read ends by itself."""
        self.stop = self.at

    def close(self) -> None:
        """The ingest's descriptor stays open."""


class InPlace:
    """An ingest whose bytes are all there: source and sink of the engine, which only has to look at them."""

    def __init__(self, ingest: Ingest, name: str) -> None:
        self._ingest = ingest
        self.name, self.lane = name, "disk"
        self.size_bytes, self.checksum_algorithm = ingest.size_bytes, ingest.checksum_algorithm

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> _Reread:
        """See `transfer.ports.Source`."""
        return _Reread(self._ingest, start, stop)

    def journaled(self) -> Collection[int]:
        """See `transfer.ports.Sink`."""
        return self._ingest.journaled()

    def write(self, buffer: memoryview, offset: int) -> None:
        """They are there."""

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """See `transfer.ports.Sink`."""
        self._ingest.journal(records)
