"""Digests that need file order (SHA-256, Git's SHA-1) beside a download that has none.

A follower reads back from disk what was written, in order, behind the slowest piece of the front: the download never waits
for it, and one core hashes 1.8 GB/s.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Protocol

from prestage.cacher.digests import PIECE_BYTES, Digest, piece_count
from prestage.cacher.errors import Bug, Unavailable
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.threads import start

READ_BYTES = 1 << 20


class Readable(Protocol):
    """What a follower reads: the sink's own file."""

    size_bytes: int

    def read(self, buffer: memoryview, offset: int) -> int:
        """Bytes at `offset` into the page-aligned `buffer`; fewer only at the end of the file."""
        ...


class Follower:
    """Hashes one file in order while its pieces arrive in any. `advance` from any thread, `run` in one."""

    def __init__(self, readable: Readable, algorithm: str) -> None:
        self._readable = readable
        self.algorithm = algorithm
        self._ready: set[int] = set()
        self._changed = threading.Condition()
        self._stopped = False
        self.digest: Digest | None = None
        self.error: BaseException | None = None

    def advance(self, piece: int) -> None:
        """`piece` lies on disk."""
        with self._changed:
            self._ready.add(piece)
            self._changed.notify_all()

    def stop(self) -> None:
        """End `run` early."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def run(self) -> None:
        """Hash to the end, or until stopped; the outcome is in `digest` or `error`."""
        try:
            hasher = _hasher(self.algorithm, self._readable.size_bytes)
            buffer = aligned_buffer(READ_BYTES)
            for piece in range(piece_count(self._readable.size_bytes)):
                with self._changed:
                    self._changed.wait_for(lambda: piece in self._ready or self._stopped)  # noqa: B023 - waits inside the loop
                    if self._stopped:
                        return
                if not self._hash_piece(piece, hasher, buffer):
                    return
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: the stage that waits for the digest gets it
            self.error = exc
            return
        self.digest = Digest(f"{self.algorithm}:{hasher.hexdigest()}")

    def outcome(self) -> Digest:
        """The digest, once `run` has ended by itself.

        Raises:
            Exception: what kept it from being known.
        """
        if self.digest is None:
            raise self.error or Bug("a file was not hashed to its end")
        return self.digest

    def _hash_piece(self, piece: int, hasher: hashlib._Hash, buffer: memoryview) -> bool:
        offset = piece * PIECE_BYTES
        stop = min(offset + PIECE_BYTES, self._readable.size_bytes)
        while offset < stop and not self._stopped:
            count = min(self._readable.read(buffer, offset), stop - offset)
            if count <= 0:
                raise Bug(f"a file being fetched ends at {offset}, not at {stop}")
            hasher.update(buffer[:count])
            offset += count
        return not self._stopped


class Followers:
    """A few threads that follow files in the order they were added. Stop it or wait for it, always."""

    def __init__(self, threads: int = 2) -> None:
        self._queue: list[Follower] = []
        self._all: list[Follower] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._count = threads

    def add(self, follower: Follower) -> None:
        """Take one more file; call `start` when all are in."""
        self._queue.append(follower)
        self._all.append(follower)

    def start(self) -> None:
        """Begin to follow, with fewer threads where the system gives no more.

        Raises:
            Unavailable: it gives none.
        """
        for index in range(min(self._count, len(self._queue))):
            thread = threading.Thread(target=self._work, name=f"prestage-digest-{index}")
            try:
                start(thread)
            except Unavailable:
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    return
                follower = self._queue.pop(0)
            follower.run()

    def finish(self, *, wanted: bool) -> None:
        """Wait for every digest, or (not `wanted`) stop at once; ends the threads."""
        if not wanted:
            with self._lock:
                self._queue.clear()
            for follower in self._all:
                follower.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()


def _hasher(algorithm: str, size_bytes: int) -> hashlib._Hash:
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    raise Bug(f"no digest algorithm {algorithm!r}")
