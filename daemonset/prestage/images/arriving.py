"""How much of a layer has come, counted as it comes off the wire: not once a buffer of the engine's is full.

connections x buffer (2 MiB) would be missing, of a small image a large part: so a read is asked for in steps of less, and
all that may be under way uncounted is one per cent of what is fetched
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.transfer.ports import Source, SourceError, Stream
from prestage.images.descriptors import Descriptor

Arrived = Callable[[Descriptor, int], None]
"""How much of a layer is here, whatever it waits for: called on the event loop."""


def ignored(_blob: Descriptor, _so_far: int) -> None:
    """Nobody asks how much."""


_STEP_LEAST: Final = 16 << 10
_UNCOUNTED: Final = 0.01


def step_bytes(total_bytes: int, connections: int) -> int:
    """Most that is read at once, where so many connections bring so much."""
    return max(_STEP_LEAST, int(total_bytes * _UNCOUNTED) // max(1, connections))


class Arrivals:
    """Of one layer, wherever in it. Thread-safe. What is before `first` was here."""

    def __init__(self, first: int = 0) -> None:
        self._first, self._lock = first, threading.Lock()
        self._reached: dict[int, int] = {}
        self.so_far = first

    def reach(self, stop: int) -> None:
        """All of the piece that `stop` ends in, up to there. What comes a second time counts once."""
        number = (stop - 1) // PIECE_BYTES
        with self._lock:
            before = self._reached.get(number, max(number * PIECE_BYTES, self._first))
            if stop > before:
                self._reached[number] = stop
                self.so_far += stop - before


class Metered:
    """A source that tells where in its layer each read ended, `step` bytes at most. `start`: where its own offsets begin."""

    def __init__(self, source: Source, step: int, told: Callable[[int], None], start: int = 0) -> None:
        self._source, self._step, self._told, self._start = source, step, told, start
        self.name, self.lane = source.name, source.lane

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        """See `transfer.ports.Source`."""
        return _MeteredStream(self._source.open(start, stop, leaving), self._step, self._told, self._start + start)


class _MeteredStream:
    def __init__(self, stream: Stream, step: int, told: Callable[[int], None], at: int) -> None:
        self._stream, self._step, self._told, self._at = stream, step, told, at
        self._failure: SourceError | None = None

    def readinto(self, buffer: memoryview) -> int:
        if self._failure is not None:
            raise self._failure
        done = 0
        try:
            while done < len(buffer):
                wanted = min(self._step, len(buffer) - done)
                count = self._stream.readinto(buffer[done : done + wanted])
                done, self._at = done + count, self._at + count
                if count:
                    self._told(self._at)
                if count < wanted:
                    break
        except SourceError as exc:
            if not done:
                raise
            self._failure = exc  # what came before it is handed over first
        return done

    def abort(self) -> None:
        self._stream.abort()

    def close(self) -> None:
        self._stream.close()
