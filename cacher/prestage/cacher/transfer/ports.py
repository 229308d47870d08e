"""What the engine moves bytes between, and how either side can fail.

Source  ranges of one file, from an origin today and from a peer later
Sink    one file being fetched: knows which pieces are journaled, writes buffers, journals pieces
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PieceRecord:
    """One verified-as-received piece: what the journal keeps and the blob's meta is made of."""

    piece: int
    size_bytes: int
    digest: bytes
    """BLAKE3 of the piece, 32 bytes."""
    chunk_sums: bytes
    """xxh3-128 of each 4 MiB chunk, 16 bytes each, concatenated."""
    checksum: int = 0
    """The piece's value of the origin's checksum algorithm (crc64nvme, crc32c, crc32), 0 when it states none."""


class Stream(Protocol):
    """An open range of a file. One thread uses it."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes only at the end of the range or before a failure, which the next call raises. 0 is the end.

        Raises:
            SourceError: by what should happen next.
        """
        ...

    def abort(self) -> None:
        """Make a blocked `readinto` end now. From any thread."""
        ...

    def close(self) -> None:
        """Drop what is left. Idempotent, never blocks."""
        ...


class Source(Protocol):
    """Ranges of one file at one version. Thread-safe."""

    @property
    def name(self) -> str:
        """`origin`, later `peer`: the key under which bytes are counted."""
        ...

    @property
    def lane(self) -> str:
        """Sources of one lane share a connection limit (an origin's server)."""
        ...

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        """Bytes [start, stop) of the pinned version. Ends soon (0.1 s) after `leaving` is set, with any error.

        Raises:
            SourceError: by what should happen next.
        """
        ...


class Proof(Protocol):
    """What is known of a file's pieces before they come. Thread-safe."""

    def check(self, record: PieceRecord) -> None:
        """Judge a piece that came whole, before it counts.

        Raises:
            Retry: it is not what it should be; it is fetched again from its start.
            Fatal: nobody is left who could give it right.
        """
        ...


class Sink(Protocol):
    """A file being fetched. `write` is called by many threads at once, never twice at one time for one offset."""

    size_bytes: int
    checksum_algorithm: str | None
    """`crc64nvme`, `crc32c` or `crc32` where the origin states a full-object checksum."""

    def journaled(self) -> Collection[int]:
        """Pieces that need not be fetched again."""
        ...

    def write(self, buffer: memoryview, offset: int) -> None:
        """Write all of `buffer` at `offset`. `buffer` lies page-aligned in memory, `offset` is a multiple of 4096; a length
        that is not (the file's tail) is padded by the sink: up to 4096 bytes behind `buffer` may be read.

        Raises:
            PrestageError: disk full, I/O error, read-only: the transfer ends.
        """
        ...

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """Make these pieces durable: data first, then their records. One thread at a time."""
        ...


class SourceError(Exception):
    """Root of what a source may raise."""


class Retry(SourceError):
    """Failed in a way that passes. `after_s`: what the server asked for; `congested`: use fewer connections."""

    def __init__(self, why: str, *, after_s: float | None = None, congested: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.after_s = after_s
        self.congested = congested


class Changed(SourceError):
    """The file is not the version that was pinned: drop every piece, resolve again."""


class NoRanges(SourceError):
    """This source serves whole files only: read it from the start in one stream."""


class Fatal(SourceError):
    """Will not pass: `error` is what the caller sees."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Cancelled(Exception):
    """The caller took its request back. What was journaled stays."""
