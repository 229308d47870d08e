"""An ingest whose bytes were shared with a local file, not fetched: the engine's source and sink for it reads the ingest's own
data, so that the clone is what is verified."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prestage.cacher.errors import Unavailable
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.transfer.ports import Fatal, PieceRecord


@dataclass(slots=True)
class _Reread:
    """A range of an ingest's own data."""

    ingest: Ingest
    at: int
    stop: int

    def readinto(self, buffer: memoryview) -> int:
        """See `transfer.ports.Stream`."""
        view = buffer[: self.stop - self.at]
        done = self.ingest.reread(view, self.at)
        if done < len(view):
            raise Fatal(Unavailable(f"{self.ingest.path} is shorter than it was", hint="check the disk: the kernel log"))
        self.at += done
        return done

    def abort(self) -> None:
        """A local read ends by itself."""
        self.stop = self.at

    def close(self) -> None:
        """The ingest's descriptor stays open."""


class InPlace:
    """An ingest whose bytes are all there: source and sink of the engine, which only has to look at them."""

    def __init__(self, ingest: Ingest, name: str) -> None:
        self._ingest = ingest
        self.name, self.lane = name, "disk"
        self.size_bytes, self.checksum_algorithm = ingest.size_bytes, ingest.checksum_algorithm

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> _Reread:
        """See `transfer.ports.Source`."""
        return _Reread(self._ingest, start, stop)

    def journaled(self) -> Collection[int]:
        """See `transfer.ports.Sink`."""
        return self._ingest.journaled()

    def write(self, buffer: memoryview, offset: int) -> None:
        """They are there."""

    def journal(self, records: Sequence[PieceRecord]) -> None:
        """See `transfer.ports.Sink`."""
        self._ingest.journal(records)
