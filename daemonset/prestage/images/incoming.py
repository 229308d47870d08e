"""Layers on their way: fetched by the engine piece by piece, a few ahead of their one reader, who takes them in order.

    pieces of all layers, in order ─▶ at most `PIECES_AHEAD` in memory, begun or whole ─▶ read(blob, offset) ─▶ memory free again

So memory is bounded; no connection is held for want of memory (but to a registry without ranges); the lowest layer comes first
with all connections on it, and the next one begins while its tail is on its way. What the reader asks for is always begun.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from prestage.cacher.digests import PIECE_BYTES, piece_count
from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Corrupt, Unavailable
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import Cancelled, Changed, Source
from prestage.images.arriving import Arrivals, Arrived, Metered, step_bytes
from prestage.images.descriptors import Descriptor
from prestage.images.names import OciDigest
from prestage.images.pieces import LayerSink, Piece, PieceSink, PieceSource, WithoutRanges

PIECES_AHEAD = 8
"""16 MiB each: as many connections as the engine begins with, 128 MiB of memory."""
_THREADS = 2 * PIECES_AHEAD
"""That wait for a piece: each is told of its end some tenths of a second late."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A layer, from an offset on: what is before it is in containerd."""

    blob: Descriptor
    offset: int = 0


class Incoming:
    """See the module. Of one event loop; use it with `async with`, which ends whatever is on its way."""

    def __init__(
        self,
        engine: Engine,
        wanted: Sequence[Wanted],
        source_of: Callable[[Descriptor], OriginSource],
        arrived: Arrived,
        priority: Priority = Priority.DECLARED,
    ) -> None:
        self._engine, self._priority, self._source_of, self._arrived = engine, priority, source_of, arrived
        self._sources: dict[OciDigest, OriginSource] = {}
        self._first = {one.blob.digest: one.offset for one in wanted}
        self._arrivals = {digest: Arrivals(first) for digest, first in self._first.items()}
        self._waiting = deque(
            (one.blob, number) for one in wanted for number in range(one.offset // PIECE_BYTES, piece_count(one.blob.size_bytes))
        )
        self._step = step_bytes(sum(one.blob.size_bytes - one.offset for one in wanted), min(PIECES_AHEAD, len(self._waiting)))
        self._pieces: dict[tuple[OciDigest, int], Piece] = {}
        self._whole: dict[OciDigest, LayerSink] = {}
        self._free: list[bytearray] = []
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prestage-layer")
        self._running: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self.received_bytes = 0
        """Over the wire; what had come of a piece that was then not wanted is counted too."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        for piece in self._pieces.values():
            piece.end()
        for sink in self._whole.values():
            sink.end()
        try:
            await to_its_end(self._all_ended())
        finally:
            self._pool.shutdown()

    async def read(self, blob: Descriptor, offset: int, size_bytes: int) -> memoryview:
        """At least one byte from `offset` on, at most `size_bytes`; good until the next call. Offsets grow; at a
        lower one, where containerd has lost what it had, the layer begins anew.

        Raises:
            PrestageError: what the engine made of the registry's answers.
        """
        number = offset // PIECE_BYTES
        if offset < self._first[blob.digest]:
            self._begin_anew(blob, offset)
        self._first[blob.digest] = max(self._first[blob.digest], number * PIECE_BYTES)
        for passed in [one for one in self._pieces.values() if one.blob.digest == blob.digest and one.number < number]:
            self._let_go(passed)
        self._advance()
        while (piece := self._pieces.get((blob.digest, number))) is None or piece.cursor <= offset:
            if self._failure is not None:
                raise self._failure
            if piece is None:
                self._begin(blob, number)
            self._changed.clear()
            await self._changed.wait()
        return piece.view(offset, offset + size_bytes)

    def passed(self, blob: Descriptor) -> None:
        """Nothing of it is read any more."""
        self._forget(blob)
        self._advance()

    def _begin_anew(self, blob: Descriptor, offset: int) -> None:
        self._forget(blob)
        numbers = range(offset // PIECE_BYTES, piece_count(blob.size_bytes))
        self._waiting.extendleft((blob, number) for number in reversed(numbers))
        self._first[blob.digest] = offset

    def _forget(self, blob: Descriptor) -> None:
        self._waiting = deque(one for one in self._waiting if one[0].digest != blob.digest)
        for piece in [one for one in self._pieces.values() if one.blob.digest == blob.digest]:
            self._let_go(piece)
        if (sink := self._whole.pop(blob.digest, None)) is not None:
            sink.end()

    async def _all_ended(self) -> None:
        while self._running:
            await asyncio.wait(set(self._running))

    def _let_go(self, piece: Piece) -> None:
        del self._pieces[piece.blob.digest, piece.number]
        if piece.is_whole:
            self._free.append(piece.memory)
        else:
            piece.end()  # its memory may be written to until its job has ended: nobody gets it

    def _advance(self) -> None:
        while self._waiting and len(self._pieces) < PIECES_AHEAD and self._failure is None:
            self._begin(*self._waiting[0])

    def _begin(self, blob: Descriptor, number: int) -> None:
        if (blob, number) in self._waiting:
            self._waiting.remove((blob, number))
        memory, whole = self._free.pop() if self._free else bytearray(PIECE_BYTES), self._whole.get(blob.digest)
        piece = Piece(blob, number, memory, self._first[blob.digest] if whole is None else 0)
        self._pieces[blob.digest, number] = piece
        if whole is not None:
            whole.give(piece)
            return
        source = self._metered(PieceSource(self._source(blob), piece.start), blob, piece.start)
        self._fetch(Transfer("layer", source, PieceSink(piece, self._came), is_hashed=False), piece)

    def _source(self, blob: Descriptor) -> OriginSource:
        if blob.digest not in self._sources:
            self._sources[blob.digest] = self._source_of(blob)
        return self._sources[blob.digest]

    def _metered(self, source: Source, blob: Descriptor, start: int = 0) -> Metered:
        arrivals = self._arrivals[blob.digest]

        def reached(stop: int) -> None:
            arrivals.reach(stop)
            self._loop.call_soon_threadsafe(self._arrived, blob, arrivals.so_far)

        return Metered(source, self._step, reached, start)

    def _fetch(self, transfer: Transfer, into: Piece | LayerSink) -> None:
        job = self._loop.run_in_executor(self._pool, self._run, transfer, into.cancel)
        self._running.add(job)
        job.add_done_callback(partial(self._ended, into))

    def _run(self, transfer: Transfer, cancel: threading.Event) -> None:
        if not cancel.is_set():
            self._engine.fetch([transfer], priority=self._priority, cancel=cancel)

    def _ended(self, into: Piece | LayerSink, job: asyncio.Future[None]) -> None:
        self._running.discard(job)
        error = job.exception()
        if error is None or into.cancel.is_set():
            return
        if isinstance(error, WithoutRanges) and isinstance(into, Piece):
            self._take_whole(into.blob)
        elif self._failure is None:
            self._failure = told_of(error)
        self._changed.set()

    def _take_whole(self, blob: Descriptor) -> None:
        """Its registry knows no ranges: the layer comes on one connection, from the first piece on that is not read yet."""
        numbers = sorted(number for digest, number in self._pieces if digest == blob.digest)
        sink = self._whole[blob.digest] = LayerSink(blob, numbers[0], self._came)
        for number in numbers:
            self._pieces[blob.digest, number].end()
            self._pieces[blob.digest, number] = piece = Piece(blob, number, bytearray(PIECE_BYTES))
            sink.give(piece)
        self._fetch(Transfer("layer", self._metered(self._source(blob), blob), sink, is_hashed=False), sink)

    def _came(self, size_bytes: int) -> None:
        """In a thread of the engine's."""
        self._loop.call_soon_threadsafe(self._count, size_bytes)

    def _count(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes
        self._changed.set()


def told_of(error: BaseException) -> BaseException:
    """An error of the engine's, as who stages is told of it."""
    if isinstance(error, Changed):
        return Corrupt("the registry gives a layer of another length than the manifest says", hint="push the image again")
    if isinstance(error, Cancelled):
        return Unavailable("the engine was closed", hint="stage it again")
    return error
