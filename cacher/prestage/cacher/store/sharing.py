"""Bytes that are on this file system already: shared, not fetched.

    link    the file itself becomes an ingest's data, under a second name: for files that are given away (`--take`)
    clone   FICLONE (xfs, btrfs): blocks are shared, a later write to either file is not seen by the other
    copy    neither is possible here: the engine reads the file as it reads any source

Never a hardlink to what somebody else may still write: whoever gives a file away proves that nobody has it open for writing
and takes its old name away in the end (`taking.py`). What is shared was read by nobody yet: in_place.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from prestage.cacher.errors import PrestageError
from prestage.cacher.store.disk import Disk
from prestage.cacher.transfer.ports import Changed


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
