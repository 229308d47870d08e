"""Layers on their way into files without a name, where containerd keeps its blobs: no byte of them waits in memory.

    engine: pieces of all layers, in order, side by side ─▶ each at its place in its layer's file, in whatever order they come
    follower: SHA-256 from the front of each file on, behind the slowest piece                          ─▶ whole(blob)

A connection never waits for a reader, and the engine finds out how many of them pay. A file goes with its process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prestage.cacher.digests import piece_count
from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Corrupt, Unavailable
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ordered import Follower
from prestage.cacher.transfer.ports import PieceRecord
from prestage.images.arriving import Arrivals, Arrived, Metered, step_bytes
from prestage.images.containerd.placing import Unnamed
from prestage.images.descriptors import Descriptor
from prestage.images.incoming import told_of
from prestage.images.names import OciDigest

_FOLLOWED = 2
"""Layers that are hashed at once: the lowest that are not whole."""


@dataclass(frozen=True, slots=True)
class _Coming:
    file: Unnamed
    follower: Follower
    arrivals: Arrivals


class Landing:
    """See the module. Of one event loop; use it with `async with`, which ends whatever is on its way."""

    def __init__(
        self,
        engine: Engine,
        wanted: Sequence[Descriptor],
        source_of: Callable[[Descriptor], OriginSource],
        file_of: Callable[[Descriptor], Unnamed],
        arrived: Arrived,
        priority: Priority = Priority.DECLARED,
    ) -> None:
        self._engine, self._wanted, self._source_of, self._file_of = engine, wanted, source_of, file_of
        self._arrived, self._priority = arrived, priority
        self._coming: dict[OciDigest, _Coming] = {}
        self._hashed: dict[OciDigest, asyncio.Future[None]] = {}
        self._pool = ThreadPoolExecutor(1 + _FOLLOWED, thread_name_prefix="prestage-layers")
        self._cancel = threading.Event()
        self._failure: BaseException | None = None
        self.received_bytes = 0
        """Over the wire, as far as it got into a file."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            transfers = [self._begun(blob) for blob in self._wanted]
        except BaseException:
            self._close()
            raise
        self._fetching = self._loop.run_in_executor(self._pool, self._fetch, transfers)
        self._fetching.add_done_callback(self._ended)
        for digest, one in self._coming.items():
            self._hashed[digest] = self._loop.run_in_executor(self._pool, one.follower.run)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._cancel.set()
        self._stop()
        try:
            await to_its_end(asyncio.wait({self._fetching, *self._hashed.values()}))
        finally:
            self._close()

    async def whole(self, blob: Descriptor) -> Unnamed:
        """Its file, once all of it is there and is what its digest says. `done` with it, or leave.

        Raises:
            Corrupt: it is not.
            PrestageError: what the engine made of the registry's answers; the disk is full.
        """
        await asyncio.shield(self._hashed[blob.digest])
        one = self._coming[blob.digest]
        if one.follower.digest is None:
            raise one.follower.error or self._failure or Unavailable("the layers were let go of", hint="stage it again")
        if str(one.follower.digest) != blob.digest:
            raise Corrupt("a layer is not what its digest says", hint="it is fetched again")
        return one.file

    def done(self, blob: Descriptor) -> None:
        """Its file is not needed here any more."""
        self._coming[blob.digest].file.close()

    def _begun(self, blob: Descriptor) -> Transfer:
        pieces = sum(piece_count(one.size_bytes) for one in self._wanted)
        step = step_bytes(sum(one.size_bytes for one in self._wanted), min(pieces, self._engine.limits.connections_max))
        file = self._file_of(blob)
        one = self._coming[blob.digest] = _Coming(file, Follower(file, "sha256"), Arrivals())

        def reached(stop: int) -> None:
            one.arrivals.reach(stop)
            self._loop.call_soon_threadsafe(self._arrived, blob, one.arrivals.so_far)

        return Transfer(
            "layer", Metered(self._source_of(blob), step, reached), _Sink(file, self._came), one.follower, is_hashed=False
        )

    def _fetch(self, transfers: Sequence[Transfer]) -> None:
        self._engine.fetch(transfers, priority=self._priority, cancel=self._cancel)

    def _came(self, size_bytes: int) -> None:
        """In a thread of the engine's."""
        self._loop.call_soon_threadsafe(self._count, size_bytes)

    def _count(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes

    def _ended(self, fetching: asyncio.Future[None]) -> None:
        if (error := fetching.exception()) is not None:
            self._failure = told_of(error)
            self._stop()

    def _stop(self) -> None:
        for one in self._coming.values():
            one.follower.stop()

    def _close(self) -> None:
        self._pool.shutdown()
        for one in self._coming.values():
            one.file.close()


class _Sink:
    """A layer's file as the engine writes it."""

    checksum_algorithm: str | None = None

    def __init__(self, file: Unnamed, came: Callable[[int], None]) -> None:
        self._file, self._came = file, came
        self.size_bytes = file.size_bytes

    def journaled(self) -> Collection[int]:
        """None: nothing outlives the process."""
        return ()

    def write(self, buffer: memoryview, offset: int) -> None:
        """See `transfer.ports.Sink`."""
        self._file.write(buffer, offset)
        self._came(len(buffer))

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """Nothing is kept: see the module."""
