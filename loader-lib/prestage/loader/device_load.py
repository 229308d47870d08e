"""Blocks of shards into device memory: read into pinned slots, verified there, copied on a stream of the load's own.

    absent    O_DIRECT ──▶ slot ──▶ xxh3 ──▶ copy ┐
    resident  preadv ────▶ slot ──▶ xxh3 ──▶ copy ┼─▶ event ─▶ waited for before a tensor is handed out
    resident, registered   the file's own pages, xxh3, copy ┘   (where the driver takes read-only file maps, and it pays: a probe)

Invariants: a slot is not reused, a map not unregistered, memory not given back before the copies from or into it are done; a
tensor is handed out only behind the events of all its blocks.
"""

from __future__ import annotations

import contextlib
import threading
import time

from prestage.loader.errors import DeviceError
from prestage.loader.memory.device import Allocator, Buffer, refuse_over_budget
from prestage.loader.memory.ports import Driver
from prestage.loader.memory.region import Region
from prestage.loader.memory.ring import Ring, Slot
from prestage.loader.pages import PAGE
from prestage.loader.plan import BLOCK_BYTES, Block, Plan
from prestage.loader.scatter import rows
from prestage.loader.source import Source
from prestage.loader.tally import Tally
from prestage.loader.verify import check_chunk
from prestage.loader.ways import Way, device_way

_PROBE_MIN_BYTES = 1 << 30
"""Below, finding out whether maps can be registered costs more than it may save."""


class _Shard:
    """One shard while it is read."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.shard = plan.checkpoint.shards[number]
        self.source = Source(self.shard)
        self.left = plan.count_of(number)
        self.lock = threading.Lock()
        self._map: Region | None = None

    def mapped(self) -> Region:
        """The file's pages. Raises: OSError."""
        with self.lock:
            if self._map is None:
                self._map = Region(self.shard.size_bytes)
                self._map.show_file(self.source.cached(), 0, self.shard.size_bytes, self.shard.path)
            return self._map


class DeviceLoad:
    """Thread-safe: `read` in attached threads, each block once; `buffer` when its blocks have landed."""

    def __init__(
        self,
        plan: Plan,
        driver: Driver,
        allocator: Allocator,
        *,
        threads: int,
        readers: int,
        pinned_bytes: int,
        device_bytes: int | None,
        tally: Tally,
    ) -> None:
        """Take all the memory that the load will need.

        Raises:
            OverBudget, DeviceError: nothing is left behind.
        """
        self._plan = plan
        self._driver = driver
        self._readers = readers
        self._tally = tally
        self._lock = threading.Lock()
        self._shards: dict[int, _Shard] = {}
        self._slots: dict[int, Slot] = {}
        self._closed = False
        slot_bytes = max((_rounded(block) for block in plan.blocks), default=BLOCK_BYTES)
        with driver.attached(), contextlib.ExitStack() as undo:
            refuse_over_budget(plan.size_bytes, device_bytes, driver.free_bytes())
            self._buffers = allocator.allocate((name, part.size_bytes) for name, part in plan.parts.items() if part.size_bytes)
            undo.callback(self._buffers.clear)
            self._stream = driver.stream()
            undo.callback(driver.end_stream, self._stream)
            self._ring = Ring(driver, slots=2 * threads, slot_bytes=slot_bytes, budget_bytes=pinned_bytes, tally=tally)
            undo.pop_all()
        self._registers = driver.reads_page_cache and plan.size_bytes >= _PROBE_MIN_BYTES
        self._probed = False

    def attach(self) -> None:
        """Each reading thread, first."""
        self._driver.attach()

    def read(self, number: int) -> None:
        """Bring the block's bytes onto the way to the device, checked.

        Raises:
            OSError, CorruptFile, DeviceError
        """
        block = self._plan.blocks[number]
        shard = self._shard(block.shard)
        resident = shard.source.is_resident(block.start, block.stop)
        way = device_way(resident=resident, readers=self._readers, registers=self._registers)
        if way is not Way.REGISTERED or not self._read_map(block, shard):
            self._read_slot(number, block, shard, resident=resident or self._readers > 1)
        with self._lock:
            shard.left -= 1
            if not shard.left:
                shard.source.close()

    def buffer(self, name: str) -> Buffer:
        """The part's memory, its bytes all there. Its blocks have landed. Raises: DeviceError."""
        with self._driver.attached():
            for number in self._plan.needed(self._plan.parts[name]):
                slot = self._slots.get(number)
                if slot:
                    # the slot may have been recorded again since: a later mark of the same stream, so no less is waited for
                    self._driver.wait(slot.event)
        return self._buffers[name]

    def forget(self, name: str) -> None:
        """The caller holds the buffer now."""
        self._buffers.pop(name, None)

    def close(self) -> None:
        """No thread may be reading. Waits for the copies, then gives back all but what was handed out. Idempotent."""
        if self._closed:
            return
        for shard in self._shards.values():
            shard.source.close()
        with self._driver.attached():
            # after a lost context each of these fails; the rest is tried all the same
            with contextlib.suppress(DeviceError):
                self._driver.wait_stream(self._stream)
            self._closed = True
            self._slots.clear()
            self._buffers.clear()
            with contextlib.suppress(DeviceError):
                self._ring.close()
            with contextlib.suppress(DeviceError):
                self._driver.end_stream(self._stream)

    def _shard(self, number: int) -> _Shard:
        with self._lock:
            if number not in self._shards:
                self._shards[number] = _Shard(self._plan, number)
            return self._shards[number]

    def _read_slot(self, number: int, block: Block, shard: _Shard, *, resident: bool) -> None:
        slot = self._ring.acquire()
        try:
            began, way = time.perf_counter(), Way.COPIED
            for start, stop in block.extents:
                way = _fill(shard.source, slot.view, block.start, start, stop, direct=not resident)
            began = self._tally.read(way, block.size_bytes, began)
            self._check(block, shard, slot.view, block.start, began)
            self._copy(block, slot.address - block.start)
            with self._lock:
                self._slots[number] = slot
        finally:
            self._ring.release(slot, self._stream)

    def _read_map(self, block: Block, shard: _Shard) -> bool:
        """By the copy engine from the file's own pages. False: not this time, or not on this machine."""
        region, low, high = shard.mapped(), block.start, -(-block.stop // PAGE) * PAGE
        if region.populate(low, block.stop):
            return False
        self._check(block, shard, region.view, 0, time.perf_counter())
        began = time.perf_counter()
        if not self._driver.register(region.base + low, high - low):
            self._registers = False
            return False
        try:
            self._copy(block, region.base)
        finally:
            self._wait_own()
            self._driver.unregister(region.base + low)
        now = self._tally.read(Way.REGISTERED, block.size_bytes, began)
        if not self._probed:
            self._probed, self._registers = True, self._pays(block, shard, now - began)
        return True

    def _pays(self, block: Block, shard: _Shard, map_s: float) -> bool:
        """The same block again through a slot, which gives the same bytes: was the map faster?"""
        slot = self._ring.acquire()
        try:
            began = time.perf_counter()
            for start, stop in block.extents:
                _fill(shard.source, slot.view, block.start, start, stop, direct=False)
            self._copy(block, slot.address - block.start)
            self._wait_own()
            return map_s < time.perf_counter() - began
        finally:
            self._ring.release(slot, self._stream)

    def _wait_own(self) -> None:
        event = self._driver.event()
        try:
            self._driver.record(event, self._stream)
            self._driver.wait(event)
        finally:
            self._driver.end_event(event)

    def _check(self, block: Block, shard: _Shard, view: memoryview, base: int, began: float) -> None:
        sums = shard.shard.sums
        if sums is None:
            return
        for start, stop in block.extents:
            for at in range(start, stop, sums.chunk_bytes):
                check_chunk(shard.shard.path, sums, at, view[at - base : min(at + sums.chunk_bytes, stop) - base])
        self._tally.verified(block.size_bytes, began)

    def _copy(self, block: Block, base: int) -> None:
        """`base`: where byte 0 of the file would lie on the host."""
        for name, part in self._plan.within(block):
            target = self._buffers[name].address
            for piece in rows(part, block.start, block.stop):
                if piece.rows == 1:
                    self._driver.copy(target + piece.target, base + piece.offset, piece.width, self._stream)
                else:
                    self._driver.copy_rows(
                        target + piece.target,
                        base + piece.offset,
                        width=piece.width,
                        rows=piece.rows,
                        target_pitch=piece.pitch,
                        source_pitch=piece.stride,
                        stream=self._stream,
                    )


def _rounded(block: Block) -> int:
    return -(-(block.stop - block.start) // PAGE) * PAGE


def _fill(source: Source, view: memoryview, base: int, start: int, stop: int, *, direct: bool) -> Way:
    rounded = -(-stop // PAGE) * PAGE
    if direct and source.read_direct(view[start - base : rounded - base], start, stop):
        return Way.DIRECT
    source.read_cached(view[start - base : stop - base], start, stop)
    return Way.COPIED
