"""How far containerd is with a blob that it unpacks: the kernel tells of each read of its file (inotify, IN_ACCESS).

    gzip     a buffer of 32 KiB before the decoder: so many reads are so many bytes, to a read
    zstd     the same, but blocks that are longer go past it (frames.py)
    neither  no buffer: headers and files as its tar reader asks for them (tars.py)

Nothing else says it: Diff.Apply answers at its end, what it has written is known by a walk over all of it, and how much that will
be stands nowhere. Of two equal notices the kernel keeps one; so file and folder are watched, and every read gives one of each, in
turn. Where the folder is not here, or the kernel has no watch left, nothing is said: the layer counts once it is committed.

What was read is let go from the page cache, where weights and what is unpacked lie too: nobody reads a layer's blob twice.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from prestage.images.containerd import frames, tars
from prestage.images.containerd.frames import READ_BYTES
from prestage.images.descriptors import Descriptor

LOOK_S: Final = 0.1
"""The kernel keeps 16,384 notices, of 256 MiB."""
_ACCESS: Final = 0x1
_TAKEN_BYTES: Final = 1 << 20
_BEHIND_BYTES: Final = 8 << 20
"""What stays: a decoder's buffer, and what the kernel has read ahead."""
_LOST: Final = struct.pack("iI", -1, 0x4000)


class Reads:
    """Of one blob's file, from now on. End it by `close`."""

    def __init__(self, path: Path, size_bytes: int, ends: Sequence[int]) -> None:
        """`ends`: where reads end, in order; empty: each is one buffer. Raises OSError where there is nothing to watch."""
        self._size, self._ends, self._name, self._count, self._gone = size_bytes, ends, path.name.encode(), 0, 0
        self.is_exact = True
        """No notice was lost."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._fd = _watching(path, path.parent)
        except OSError:
            os.close(self._file)
            raise

    def so_far(self) -> int:
        """Bytes of the blob, as compressed as it is."""
        with suppress(BlockingIOError):
            while told := os.read(self._fd, _TAKEN_BYTES):
                self._count += told.count(self._name)
                self.is_exact &= _LOST not in told
        if self._ends:
            return self._ends[min(self._count, len(self._ends)) - 1] if self._count else 0
        return min(self._count * READ_BYTES, self._size)

    def forget(self, stop: int) -> None:
        """Bytes up to there are not read again: they leave the page cache."""
        if (stop := stop - _BEHIND_BYTES) > self._gone:
            os.posix_fadvise(self._file, self._gone, stop - self._gone, os.POSIX_FADV_DONTNEED)
            self._gone = stop

    def close(self) -> None:
        """Watch it no more."""
        os.close(self._fd)
        os.close(self._file)


async def watched(folder: Path, blob: Descriptor) -> Reads | None:
    """None: it is not here, or cannot be watched. `folder`: containerd's content folder."""
    path = folder / "blobs" / "sha256" / blob.digest.partition(":")[2]
    try:
        return Reads(path, blob.size_bytes, await asyncio.to_thread(_ends_of, path, blob))
    except OSError:
        return None


@asynccontextmanager
async def followed(folder: Path | None, blob: Descriptor, told: Callable[[int], None]) -> AsyncIterator[None]:
    """`told` hears how far containerd is, as long as this is open. `folder`: None where it is not here."""
    reads = await watched(folder, blob) if folder is not None else None
    if reads is None:
        yield
        return
    telling = asyncio.create_task(_tell(reads, told))
    try:
        yield
    finally:
        telling.cancel()  # it waits, and reads no more
        reads.forget(blob.size_bytes + _BEHIND_BYTES)
        reads.close()
        await asyncio.wait([telling])


async def _tell(reads: Reads, told: Callable[[int], None]) -> None:
    said = 0
    while True:
        await asyncio.sleep(LOOK_S)
        if (now := reads.so_far()) > said:
            said = now
            reads.forget(now)
            told(now)


def _ends_of(path: Path, blob: Descriptor) -> Sequence[int]:
    reads_of = tars.reads_of if blob.media_type.endswith("tar") else frames.reads_of
    with path.open("rb") as file:
        return reads_of(blob.size_bytes, lambda offset, size: os.pread(file.fileno(), size, offset))


def _watching(*paths: Path) -> int:
    """A descriptor that tells of reads. Python has no call for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "no watch is to be had")
    for path in paths:
        if libc.inotify_add_watch(fd, os.fsencode(path), _ACCESS) < 0:
            number = ctypes.get_errno()
            os.close(fd)
            raise OSError(number, "it cannot be watched")
    return fd
