"""One piece of a layer in memory, and what the engine needs to bring it there: a source and a sink for that span alone.

    engine's threads ──write──▶ memory, from the front on; `cursor` says how far ──▶ read on the event loop

Nothing of it outlives the process: what containerd has of a layer is what is gone on from. Its SHA-256 is checked there, at
COMMIT. A registry that knows no ranges gives a whole layer on one connection; its sink makes that connection wait until there
is memory for the next piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from prestage.cacher.digests import PIECE_BYTES, piece_count, piece_span
from prestage.cacher.errors import PrestageError, Unavailable
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.ports import Fatal, NoRanges, PieceRecord, Stream
from prestage.images.descriptors import Descriptor


class WithoutRanges(PrestageError):
    """The registry gives this layer whole or not at all."""


class Piece:
    """See the module. `start`, `stop` and `cursor` are offsets in the layer."""

    def __init__(self, blob: Descriptor, number: int, memory: bytearray, first: int = 0) -> None:
        """`first`: nothing before it is wanted."""
        self.blob, self.number = blob, number
        start, self.stop = piece_span(blob.size_bytes, number)
        self.cursor = self.start = max(start, first)
        self.memory = memory
        self._view = memoryview(memory)
        self.cancel = threading.Event()
        """Nobody reads it any more."""

    @property
    def is_whole(self) -> bool:
        """Nobody writes into its memory any more."""
        return self.cursor == self.stop

    def view(self, offset: int, stop: int) -> memoryview:
        """What is here of [offset, stop): good for as long as the memory is this piece's."""
        return self._view[offset - self.start : min(stop, self.cursor) - self.start]

    def end(self) -> None:
        """Nobody reads it any more: its job ends soon."""
        self.cancel.set()

    def put(self, offset: int, data: memoryview) -> None:
        """The next bytes, from `offset` in the layer on. The memory first: whoever sees the cursor sees the bytes."""
        at = offset - self.start
        self._view[at : at + len(data)] = data
        self.cursor = offset + len(data)


class PieceSource:
    """A piece of a layer as if it were a file of its own."""

    name = "origin"

    def __init__(self, source: OriginSource, start: int) -> None:
        self._source, self._start = source, start
        self.lane = source.lane

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        """See `transfer.ports.Source`."""
        try:
            return self._source.open(self._start + start, self._start + stop, leaving)
        except NoRanges as exc:
            raise Fatal(WithoutRanges(str(exc))) from exc


class PieceSink:
    """Takes one piece as a file of its own."""

    checksum_algorithm: str | None = None

    def __init__(self, piece: Piece, came: Callable[[int], None]) -> None:
        self._piece, self._came = piece, came
        self.size_bytes = piece.stop - piece.start

    def journaled(self) -> Collection[int]:
        """None: see the module."""
        return ()

    def write(self, buffer: memoryview, offset: int) -> None:
        """See `transfer.ports.Sink`."""
        self._piece.put(self._piece.start + offset, buffer)
        self._came(len(buffer))

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """Nothing is kept: see the module."""


class LayerSink:
    """Takes a whole layer, from piece `first` on, on the one connection that its registry gives. `write` waits for memory."""

    checksum_algorithm: str | None = None

    def __init__(self, blob: Descriptor, first: int, came: Callable[[int], None]) -> None:
        self._came = came
        self.size_bytes = blob.size_bytes
        self.first = first
        self._pieces: dict[int, Piece] = {}
        self._changed = threading.Condition()
        self.cancel = threading.Event()
        """As of a piece."""

    def give(self, piece: Piece) -> None:
        """Memory for the next piece."""
        with self._changed:
            self._pieces[piece.number] = piece
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody reads it any more: `write` fails from now on."""
        self.cancel.set()
        with self._changed:
            self._changed.notify_all()

    def journaled(self) -> Collection[int]:
        """What containerd has."""
        return range(min(self.first, piece_count(self.size_bytes)))

    def write(self, buffer: memoryview, offset: int) -> None:
        """See `transfer.ports.Sink`."""
        number = offset // PIECE_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self.cancel.is_set() or number in self._pieces)
            if self.cancel.is_set():
                raise Unavailable("the layer is not wanted any more")
            piece = self._pieces[number]
            piece.put(offset, buffer)
            if piece.is_whole:
                del self._pieces[number]
        self._came(len(buffer))

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """Nothing is kept: see the module."""
