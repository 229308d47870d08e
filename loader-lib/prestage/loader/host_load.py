"""Blocks of shards into regions of host memory, each the best way, verified by the thread that read them."""

from __future__ import annotations

import bisect
import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

from prestage.loader.ahead import enter_ahead
from prestage.loader.memory.budget import Budget
from prestage.loader.memory.region import Piece, Region
from prestage.loader.pages import PAGE
from prestage.loader.plan import Block, Extent, Part, Plan
from prestage.loader.prefault import Prefault
from prestage.loader.residency import Residency
from prestage.loader.source import Source
from prestage.loader.tally import Tally
from prestage.loader.verify import check_chunk
from prestage.loader.ways import Destination, Way, host_way


class _Landing:
    """One shard's memory while it is being filled. It begins as a map of the shard where that is resident as a whole, which saves
    a system call for each block."""

    def __init__(self, plan: Plan, number: int, destination: Destination, readers: int) -> None:
        shard = plan.checkpoint.shards[number]
        self.sums = shard.sums
        self.source = Source(shard)
        self.region = Region(shard.size_bytes)
        self.left = plan.count_of(number)
        try:
            self.is_map = self._begins_as_map(destination, readers)
            if self.is_map:
                self.region.show_file(self.source.cached(), 0, shard.size_bytes, shard.path)
        except OSError:
            self.source.close()
            raise

    def _begins_as_map(self, destination: Destination, readers: int) -> bool:
        if destination is not Destination.AUTO:
            return destination is Destination.MAPPED
        return readers > 1 or self.source.whole() is Residency.RESIDENT


class HostLoad:
    """Thread-safe: `read` in any thread, each block once; `piece` when its blocks have landed."""

    def __init__(self, plan: Plan, *, destination: Destination, readers: int, budget: Budget, tally: Tally) -> None:
        self._plan = plan
        self._destination = destination
        self._readers = readers
        self._budget = budget
        self._tally = tally
        self._lock = threading.Lock()
        self._landings: dict[int, _Landing] = {}
        self._lent: dict[str, Piece] = {}
        self._private = bytearray(len(plan.blocks))
        self._prefault: Prefault | None = None
        self.on_room: Callable[[], None] | None = None
        """Called when memory was given back, on whatever thread that is."""

    def fits(self, number: int) -> bool:
        """Room, for the private destination: only there readers wait for memory."""
        size = self._plan.blocks[number].size_bytes
        return self._budget.used_bytes + size <= self._budget.limit_bytes

    def occupy(self, number: int) -> None:
        """Room."""
        self._budget.take(self._plan.blocks[number].size_bytes)

    def read(self, number: int) -> None:
        """Bring the block's bytes to their addresses, and check them.

        Raises:
            OSError: names the file and the bytes. CorruptFile: nothing of them will be shown.
        """
        block = self._plan.blocks[number]
        if self._prefault:
            self._prefault.begin(number)
        landing = self._landing(block.shard)
        began = time.perf_counter()
        way = self._bring(number, block, landing)
        began = self._tally.read(way, block.size_bytes, began)
        if landing.sums:
            for start, stop in block.extents:
                _check(landing, start, stop)
            self._tally.verified(block.size_bytes, began)
        if self._private[number]:
            self._give_back_unwanted(block, landing)
        with self._lock:
            landing.left -= 1
            if not landing.left:
                landing.source.close()

    def there_already(self) -> list[int]:
        """Blocks that are resident, mapped and not to be checked: nobody has to read them. Called before anything is read.

        What is left to do for them is a look at the page cache, some microseconds each: waking a thread for that costs more, and
        on busy cores the wait for one costs most of a hot load.
        """
        if self._destination is Destination.PRIVATE:
            return []
        blocks = itertools.groupby(enumerate(self._plan.blocks), key=lambda at: at[1].shard)
        unchecked = ((shard, list(own)) for shard, own in blocks if not self._plan.checkpoint.shards[shard].sums)
        there = [number for shard, own in unchecked for number in self._mapped_already(self._landing(shard), own)]
        enter_ahead((self._landings[block.shard].region, block) for block in map(self._plan.blocks.__getitem__, there))
        return there

    def prefault(self) -> None:
        """Begin to fault memory in ahead of the readers, where they will fill all of it: all is absent and fits the budget."""
        if self._destination is Destination.MAPPED or self._readers > 1 or self._plan.read_bytes > self._budget.limit_bytes:
            return
        try:
            self._prefault = Prefault(len(self._plan.blocks), self._fault_in)
        except RuntimeError:  # no thread to be had
            return

    def _fault_in(self, number: int) -> bool:
        block = self._plan.blocks[number]
        try:
            landing = self._landing(block.shard)
            if landing.is_map or landing.source.whole() is Residency.PARTLY:
                return True
        except OSError:
            return False  # the block's reader meets it too
        return all(landing.region.prefault(start, stop) for start, stop in block.extents)

    def _mapped_already(self, landing: _Landing, blocks: list[tuple[int, Block]]) -> list[int]:
        began = time.perf_counter()
        found = {}
        if landing.is_map:
            found = {number: block for number, block in blocks if landing.source.is_resident(block.start, block.stop)}
        landing.source.close()  # opened again where it is needed: 200 cold shards are not 600 descriptors
        landing.left -= len(found)
        self._tally.read(Way.MAPPED, sum(block.size_bytes for block in found.values()), began)
        return list(found)

    def piece(self, name: str) -> Piece:
        """The bytes from the part's first to its last; its blocks have landed. They go with the last reference, of which one is
        kept here until `forget`: a tensor that could not be made of them may be made later."""
        part = self._plan.parts[name]
        with self._lock:
            if name not in self._lent:
                self._lent[name] = self._landings[part.shard].region.lend(part.start, part.stop, self._returned(part))
            return self._lent[name]

    def forget(self, name: str) -> None:
        """The caller holds the bytes now."""
        self._lent.pop(name, None)

    @property
    def huge(self) -> bool:
        """Whether private memory asked for huge pages and was not refused."""
        return all(landing.region.huge for landing in self._landings.values())

    def close(self) -> None:
        """Descriptors, and the addresses that nobody was lent. No thread may be reading."""
        if self._prefault:
            self._prefault.end()
        with self._lock:
            for landing in self._landings.values():
                landing.source.close()
            self._landings.clear()
            self._lent.clear()

    def _landing(self, shard: int) -> _Landing:
        with self._lock:
            if shard not in self._landings:
                self._landings[shard] = _Landing(self._plan, shard, self._destination, self._readers)
            return self._landings[shard]

    def _bring(self, number: int, block: Block, landing: _Landing) -> Way:
        resident = landing.source.is_resident(block.start, block.stop)
        room = self._has_room(block, resident=resident)
        way = host_way(self._destination, resident=resident, readers=self._readers, has_room=room)
        if way in (Way.MAPPED, Way.POPULATED):
            self._show(block, landing, way)
            return way
        self._private[number] = 1
        if landing.is_map:
            landing.region.hide_file(block.start, block.stop)
        for start, stop in block.extents:
            way = _fill(landing, start, stop, way)
        return way

    def _has_room(self, block: Block, *, resident: bool) -> bool:
        """Taken here for AUTO; PRIVATE took it before the block was handed out."""
        if self._destination is not Destination.AUTO or resident or self._readers > 1:
            return True
        return self._budget.take(block.size_bytes)

    def _show(self, block: Block, landing: _Landing, way: Way) -> None:
        if not landing.is_map:
            landing.region.show_file(landing.source.cached(), block.start, block.stop, landing.source.path)
        for start, stop in block.extents:
            if way is Way.POPULATED:
                landing.source.hint(start, stop)
            if code := landing.region.populate(start, stop):
                raise OSError(errno.EIO, f"bytes {start}-{stop} cannot be read ({os.strerror(code)})", landing.source.path)

    def _give_back_unwanted(self, block: Block, landing: _Landing) -> None:
        """Read along with what was wanted, to verify it or because a gap was short."""
        for start, stop in _unwanted(self._plan, block):
            low, high = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
            if low < high:
                landing.region.drop(low, high)
                self._budget.give(high - low)
                if self.on_room:
                    self.on_room()

    def _returned(self, part: Part) -> Callable[[int, int], None]:
        plan, private, budget, shard = self._plan, self._private, self._budget, part.shard
        nudge = self.on_room

        def gone(start: int, stop: int) -> None:
            low, high = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
            for number in plan.blocks_of(shard, low, high):
                if private[number]:
                    block = plan.blocks[number]
                    budget.give(sum(max(min(b, high) - max(a, low), 0) for a, b in block.extents))
            if nudge:
                nudge()

        return gone


def _fill(landing: _Landing, start: int, stop: int, way: Way) -> Way:
    rounded = -(-stop // PAGE) * PAGE
    if way is Way.DIRECT and landing.source.read_direct(landing.region.view[start:rounded], start, stop):
        return Way.DIRECT
    landing.source.read_cached(landing.region.view[start:stop], start, stop)
    return Way.COPIED


def _check(landing: _Landing, start: int, stop: int) -> None:
    assert landing.sums
    size = landing.sums.chunk_bytes
    for offset in range(start, stop, size):
        check_chunk(landing.source.path, landing.sums, offset, landing.region.view[offset : min(offset + size, stop)])


def _unwanted(plan: Plan, block: Block) -> Iterator[Extent]:
    parts = plan.by_shard[block.shard]
    at = max(bisect.bisect_right(parts, block.start, key=lambda part: part.start) - 1, 0)
    for start, stop in block.extents:
        cursor = start
        while at < len(parts) and parts[at].start < stop:
            if cursor < parts[at].start:
                yield cursor, parts[at].start
            cursor = max(cursor, min(parts[at].stop, stop))
            if parts[at].stop > stop:
                break
            at += 1
        if cursor < stop:
            yield cursor, stop
