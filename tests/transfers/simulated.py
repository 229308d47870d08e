"""A source without a network that misbehaves by the dice of a seed, and a sink that forgives nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prestage.cacher.digests import piece_span
from prestage.cacher.transfer.flight import BLOCK_BYTES
from prestage.cacher.transfer.ports import NoRanges, PieceRecord, Retry, Stream
from transfers import MemorySink


class StrictSink(MemorySink):
    """Every block is written once in its life, whole pieces are journaled once."""

    def __init__(self, size_bytes: int, checksum_algorithm: str | None = None) -> None:
        super().__init__(size_bytes, checksum_algorithm)
        self._blocks = bytearray(-(-size_bytes // BLOCK_BYTES))

    def write(self, buffer: memoryview, offset: int) -> None:
        first, after = offset // BLOCK_BYTES, -(-(offset + len(buffer)) // BLOCK_BYTES)
        with self._lock:
            assert not any(self._blocks[first:after]), f"written twice at {offset}"
            self._blocks[first:after] = b"\1" * (after - first)
        super().write(buffer, offset)

    def journal(self, records: Sequence[PieceRecord]) -> None:
        for record in records:
            start, stop = piece_span(self.size_bytes, record.piece)
            assert all(self._blocks[start // BLOCK_BYTES : -(-stop // BLOCK_BYTES)]), f"piece {record.piece} is not whole"
        super().journal(records)


@dataclass
class Range:
    """Bytes of `data` up to `stop`; what `before` does happens before each read and may raise or wait."""

    data: bytes
    at: int
    stop: int
    before: Callable[[Range], object] = lambda stream: None
    fails_at: int | None = None
    most: int = 1 << 30
    ended: threading.Event = field(default_factory=threading.Event)

    def readinto(self, buffer: memoryview) -> int:
        self.before(self)
        if self.ended.is_set():
            raise Retry("aborted")
        stop = self.stop if self.fails_at is None else min(self.stop, self.fails_at)
        count = min(len(buffer), stop - self.at, self.most)
        if not count and self.fails_at is not None and self.fails_at < self.stop:
            raise Retry("reset in the middle")
        buffer[:count] = self.data[self.at : self.at + count]
        self.at += count
        return count

    def abort(self) -> None:
        self.ended.set()

    def close(self) -> None:
        self.ended.set()


@dataclass
class Scripted:
    """`script(start, stop, nth)` answers the nth call of `open`, counted from 0: a stream, or it raises."""

    script: Callable[[int, int, int], Stream]
    lane: str = "lane"
    name: str = "origin"
    opened: list[tuple[int, int]] = field(default_factory=list)

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        self.opened.append((start, stop))
        return self.script(start, stop, len(self.opened) - 1)


@dataclass
class Dice:
    """Fails to open, breaks off anywhere, answers short, slow or not at all, and may lose its ranges on the way."""

    data: bytes
    rng: random.Random
    lane: str = "lane"
    name: str = "origin"
    loses_ranges: bool = False
    whole_only: bool = False
    faults: int = 40
    """How many are left; then it behaves, so that every run ends."""

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        fault = self._fault()
        if fault == "refuse":
            raise Retry("busy", after_s=self.rng.choice([None, 0.0, 0.01]), congested=self.rng.random() < 0.5)
        if fault == "no ranges" and self.loses_ranges:
            self.whole_only = True
        if self.whole_only and (start, stop) != (0, len(self.data)):
            raise NoRanges("whole only")
        if fault == "break":
            return Range(self.data, start, stop, fails_at=self.rng.randint(start, stop))
        if fault == "short":
            return Range(self.data, start, self.rng.randint(start + 1, stop))
        if fault == "slow":
            return Range(self.data, start, stop, before=lambda stream: stream.ended.wait(0.002), most=40_960)
        if fault == "stall":
            return Range(self.data, start, stop, before=_stall)
        return Range(self.data, start, stop)

    def _fault(self) -> str:
        if self.faults <= 0 or self.rng.random() < 0.3:
            return ""
        self.faults -= 1
        return self.rng.choice(["refuse", "no ranges", "break", "break", "short", "slow", "stall"])


def _stall(stream: Range) -> None:
    if not stream.ended.wait(0.05):
        raise Retry("stalled")
