"""A file to move, and its pieces on their way: each one cursor, one hash state, whoever delivers the next bytes.

A retry goes on at the cursor. A hedge is a second connection on the same flight: both deliver, whoever brings the bytes at
the cursor first is written and hashed, the other's copy is dropped. So no byte is written twice, and what was hashed is what
lies on disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import xxhash

from prestage.cacher.digests import CHUNK_BYTES, piece_count, piece_hasher, piece_span
from prestage.cacher.transfer.checksums import algorithm
from prestage.cacher.transfer.limits import Patience
from prestage.cacher.transfer.ordered import Follower
from prestage.cacher.transfer.ports import PieceRecord, Proof, Sink, Source

BLOCK_BYTES = 4096
"""What a cursor inside a file is a multiple of: the unit of O_DIRECT."""


class Transfer:
    """One file from a source to a sink. With a `proof` no piece counts, or reaches the journal, that it refuses.

    `is_hashed` false: its records carry no digests and sums, for a sink whose bytes are checked elsewhere.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        sink: Sink,
        follower: Follower | None = None,
        proof: Proof | None = None,
        *,
        is_hashed: bool = True,
    ) -> None:
        self.path, self.source, self.sink, self.follower, self.proof = path, source, sink, follower, proof
        self.is_hashed = is_hashed
        have = set(sink.journaled())
        self.pending = deque(piece for piece in range(piece_count(sink.size_bytes)) if piece not in have)
        self.flying: set[Flight] = set()
        self.begun: dict[int, Flight] = {}
        """Of `pending`, pieces that an attempt with ranges left at their cursor before the source said it has none."""
        self.has_ranges = True
        """False once the source said so: then one connection reads the file from its start."""
        self.patience = Patience()
        """Of a read without ranges."""
        if follower is not None:
            for piece in have:
                follower.advance(piece)

    def flight(self, piece: int) -> Flight:
        """For the next attempt on `piece`: the one that was begun, or a fresh one."""
        return self.begun.pop(piece, None) or Flight(self, piece)

    @property
    def left_bytes(self) -> int:
        """Bytes of the pieces not begun."""
        return sum(stop - start for start, stop in (piece_span(self.sink.size_bytes, piece) for piece in self.pending))


class Flight:
    """One piece being received. `deliver` is thread-safe; the queue owns the rest under its lock."""

    def __init__(self, transfer: Transfer, piece: int) -> None:
        self.transfer, self.piece = transfer, piece
        self.start, self.stop = piece_span(transfer.sink.size_bytes, piece)
        self.cursor = self.start
        self.patience = Patience()
        self.began, self.began_at = time.monotonic(), self.start
        self.attempts = 0
        self.lock = threading.Lock()
        self._hasher = piece_hasher()
        self._chunk = xxhash.xxh3_128()
        self._chunk_sums = bytearray()
        self._crc = 0

    def bytes_per_s(self, now: float) -> float:
        """Rate since its connection was opened."""
        return (self.cursor - self.began_at) / max(now - self.began, 1e-3)

    @property
    def is_whole(self) -> bool:
        """Every byte was delivered."""
        return self.cursor == self.stop

    def deliver(self, offset: int, view: memoryview) -> int:
        """Write and hash what of `view` (bytes from `offset` on, page-aligned in memory) lies at the cursor.

        Returns how many bytes moved the cursor: fewer than given when another attempt brought some first, or when they end
        inside a block before the end of the piece. Whoever moves it to the end has made the piece whole, nobody else.

        Raises:
            PrestageError: the sink cannot write.
        """
        with self.lock:
            known = self.cursor - offset
            if known < 0 or known >= len(view):
                return 0
            fresh = view[known:]
            if self.cursor + len(fresh) < self.stop:
                fresh = fresh[: len(fresh) - len(fresh) % BLOCK_BYTES]
            if not fresh:
                return 0
            # Written first: when that fails, another attempt may bring the same bytes, and they must be hashed once.
            self.transfer.sink.write(fresh, self.cursor)
            self._hash(fresh)
            self.cursor += len(fresh)
            self.patience.progressed()
            return len(fresh)

    def restart(self) -> None:
        """What came was not what it should be: begin again at the start of the piece."""
        with self.lock:
            self.cursor = self.began_at = self.start
            self._hasher, self._crc = piece_hasher(), 0
            self._chunk.reset()
            self._chunk_sums.clear()

    def _hash(self, view: memoryview) -> None:
        if not self.transfer.is_hashed:
            return
        self._hasher.update(view)
        if name := self.transfer.sink.checksum_algorithm:
            self._crc = algorithm(name).update(view, self._crc)
        at = self.cursor
        while view:
            room = CHUNK_BYTES - at % CHUNK_BYTES
            part, view = view[:room], view[room:]
            self._chunk.update(part)
            at += len(part)
            if at % CHUNK_BYTES == 0 or at == self.stop:
                self._chunk_sums += self._chunk.digest()
                self._chunk.reset()

    def record(self) -> PieceRecord:
        """What the journal keeps of the whole piece."""
        digest = self._hasher.digest()
        return PieceRecord(self.piece, self.stop - self.start, digest, bytes(self._chunk_sums), self._crc)
