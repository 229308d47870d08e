"""Checking a file's chunks against their sums, each once, before anything made of them leaves this package.

Point in time: a chunk is checked on the very pages that the tensors map, when it is read. Memory pressure may drop a clean page
and read it again later from the disk, unchecked; the scrubber of the node watches what lies on disk.

Invariant: `require(start, stop)` returns only when every chunk that overlaps [start, stop) has matched. A chunk is never hashed
again after that, because its tensors may have been written to since (copy-on-write).
"""

from __future__ import annotations

import threading

import xxhash

from prestage.loader import damage
from prestage.loader.errors import CorruptFile
from prestage.loader.mapped import MappedFile
from prestage.loader.sums import DIGEST_BYTES, FileSums
from prestage.loader.sweep import Window, sweep, windows


class Checker:
    """Which chunks of one file are known to be right. Thread-safe: one caller checks at a time, on several threads of its own."""

    def __init__(self, mapped: MappedFile, sums: FileSums) -> None:
        """Compare the sizes.

        Raises:
            CorruptFile: the file is longer or shorter than the sums say.
        """
        self._mapped = mapped
        self._sums = sums
        self._good = bytearray(len(sums.digests) // DIGEST_BYTES)
        self._lock = threading.Lock()
        refuse_size(mapped.path, mapped.size_bytes, sums)

    @property
    def checked_bytes(self) -> int:
        """In whole chunks."""
        whole = self._good.count(1) * self._sums.chunk_bytes
        last_is_short = bool(self._good) and self._good[-1]
        return whole - (-self._sums.size_bytes % self._sums.chunk_bytes if last_is_short else 0)

    def require(self, start: int, stop: int) -> None:
        """Check what of [start, stop) was not checked yet.

        Raises:
            CorruptFile: names the first chunk that differs.
            OSError: the file cannot be read.
        """
        if stop <= start:
            return
        size = self._sums.chunk_bytes
        with self._lock:
            sweep(self._unchecked(start // size, -(-stop // size)), self._check)

    def _unchecked(self, first: int, last: int) -> list[Window]:
        size, end = self._sums.chunk_bytes, self._sums.size_bytes
        unchecked: list[Window] = []
        at = self._good.find(0, first, last)
        while at >= 0:
            until = self._good.find(1, at, last)
            until = last if until < 0 else until
            unchecked += windows(at * size, min(until * size, end), size)
            at = self._good.find(0, until, last)
        return unchecked

    def _check(self, start: int, stop: int) -> None:
        self._mapped.populate(start, stop)
        size = self._sums.chunk_bytes
        for offset in range(start, stop, size):
            check_chunk(self._mapped.path, self._sums, offset, self._mapped.view[offset : min(offset + size, stop)])
            self._good[offset // size] = 1


def check_chunk(path: str, sums: FileSums, start: int, chunk: memoryview) -> None:
    """Compare the chunk that begins at byte `start` of the file with its sum. Releases the GIL. Raises: CorruptFile."""
    at = start // sums.chunk_bytes * DIGEST_BYTES
    if xxhash.xxh3_128_digest(chunk) != sums.digests[at : at + DIGEST_BYTES]:
        stop = start + len(chunk)
        raise corrupt(path, (start, stop), sums, f"differs from its sum in bytes {start}-{stop}")


def refuse_size(path: str, size_bytes: int, sums: FileSums) -> None:
    """Compare a file's length with what the sums say. Raises: CorruptFile."""
    if size_bytes != sums.size_bytes:
        shorter, longer = sorted((size_bytes, sums.size_bytes))
        raise corrupt(path, (shorter, longer), sums, f"has {size_bytes} bytes instead of {sums.size_bytes}")


def corrupt(path: str, where: Window, sums: FileSums, what: str) -> CorruptFile:
    """The error for wrong bytes in `where` ([start, stop) of the file). The node's agent is told of them."""
    damage.tell(sums.artifact, path, where[0], sums.place)
    return CorruptFile(
        f"{path!r} {what} (artifact {sums.artifact})",
        path=path,
        start=where[0],
        stop=where[1],
        artifact=sums.artifact,
        hint="nothing of it was loaded; run `prestage verify` on the node and stage the artifact again",
    )
