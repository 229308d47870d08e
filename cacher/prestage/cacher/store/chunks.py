"""Reading single chunks of a file: from the disk, past the page cache, and from the page cache as a reader's mapping sees it.

What rots in memory is in the page cache only: dropping it cures it, unless somebody has it mapped.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from prestage.cacher.digests import CHUNK_BYTES, chunk_sum
from prestage.cacher.transfer.buffers import aligned_buffer

UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})
"""What file systems say of bytes that the medium has lost."""


class Verdict(Enum):
    """What became of a report of damage, by what the reader does next."""

    SOUND = "sound"
    """Disk and page cache are right: open the file again; if it stays, the reader's own memory is wrong."""
    CURED = "cured"
    """The page cache was wrong and was dropped: read again."""
    DAMAGED = "damaged"
    """Taken out of use: open the file again once it was refetched."""
    GONE = "gone"
    """It was evicted or taken out of use before: as for DAMAGED, if the artifact is still wanted."""


class ChunkFile:
    """One file, open to be read by chunks. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        self._cached = os.open(path, flags)
        try:
            self._direct: int | None = os.open(f"/proc/self/fd/{self._cached}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as exc:
            self._direct = None
            if exc.errno != errno.EINVAL:
                os.close(self._cached)
                raise
        status = os.fstat(self._cached)
        self.identity, self.size_bytes = (status.st_dev, status.st_ino), status.st_size
        self._buffer = aligned_buffer(CHUNK_BYTES)

    def close(self) -> None:
        """To be called once."""
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def from_disk(self, at: int) -> memoryview:
        """The chunk at `at` as the disk has it; without O_DIRECT, as it is read again after its pages were dropped. Valid until
        the next read. Leaves nothing in the page cache.
        """
        if self._direct is not None:
            return self._read(self._direct, at)
        self.drop(at)
        view = self._read(self._cached, at)
        self.drop(at)
        return view

    def from_cache(self, at: int) -> memoryview:
        """The chunk as a mapping of the file has it. Valid until the next read."""
        return self._read(self._cached, at)

    def drop(self, at: int) -> None:
        """Drop the chunk's pages from the page cache; those that somebody has mapped stay."""
        os.posix_fadvise(self._cached, at, CHUNK_BYTES, os.POSIX_FADV_DONTNEED)

    def _read(self, fd: int, at: int) -> memoryview:
        return self._buffer[: min(os.preadv(fd, [self._buffer], at), max(0, self.size_bytes - at))]


@contextmanager
def opened(path: Path) -> Iterator[ChunkFile]:
    """Raises OSError."""
    file = ChunkFile(path)
    try:
        yield file
    finally:
        file.close()


def is_right_on_disk(file: ChunkFile, at: int, right: bytes) -> bool:
    """The disk has the right chunk, at the second attempt at the latest. A medium that cannot read it has not.

    Raises:
        OSError: another one.
    """
    try:
        return chunk_sum(file.from_disk(at)) == right or chunk_sum(file.from_disk(at)) == right
    except OSError as exc:
        if exc.errno in UNREADABLE:
            return False
        raise


def examine(file: ChunkFile, at: int, right: bytes) -> Verdict:
    """Look at one chunk where a reader saw damage: on the disk, and in the page cache, which is dropped if it is wrong.

    Raises:
        OSError: the disk failed otherwise than by losing these bytes.
    """
    try:
        cached = chunk_sum(file.from_cache(at)) == right
    except OSError as exc:
        if exc.errno not in UNREADABLE:
            raise
        cached = False
    if not is_right_on_disk(file, at, right):
        return Verdict.DAMAGED
    if cached:
        return Verdict.SOUND
    file.drop(at)
    return Verdict.CURED if chunk_sum(file.from_cache(at)) == right else Verdict.DAMAGED
