"""Blocks of shards into device memory, checked on the way, copied on a stream of the load's own.

    absent     O_DIRECT ──▶ pinned slot ──▶ xxh3 ──▶ copy ┐
    resident   preadv ────▶ pinned slot ──▶ xxh3 ──▶ copy ┼─▶ event ─▶ waited for before a tensor is handed out
    resident, registered    the file's own pages, xxh3, copy ┘   one thread at a time, where a probe shows that it pays

Invariants: a slot is not reused, a page not unregistered, memory not given back before the copies from or into it are done; a
tensor is handed out only behind the events of all its blocks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial

from prestage.loader.errors import DeviceError
from prestage.loader.memory.device import Allocator, Buffer, carved, refuse_over_budget
from prestage.loader.memory.ports import Driver
from prestage.loader.memory.ring import Ring, Slot
from prestage.loader.memory.windows import FilePages, Window, Windows
from prestage.loader.pages import PAGE
from prestage.loader.plan import Block, Plan, pieces, window
from prestage.loader.scatter import rows
from prestage.loader.source import Source
from prestage.loader.tally import Tally
from prestage.loader.verify import check_chunk
from prestage.loader.ways import Way, device_way

_WINDOWS_BYTES = 8 << 30
"""Of the page cache that may be registered at a time."""
_SLOT_BYTES = 8 << 20
"""4 GB on an H200 took 0.23 s with half of it, with twice as much 0.18-0.22 and more pinned memory."""
_PROBE_MIN_BYTES = 1 << 30
"""Below, finding out whether registering pays costs more than it may save."""
_PAYS_FROM = 25e9
"""Bytes a second of one thread that registers, copies and unregisters, which the driver does for one at a time, while others copy
into slots. An H200 in a virtual machine gave 17e9 (docs/loader.md), machines of unified memory are said to give 0.2e9."""


class _Shard:
    """One shard while it is read."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.shard = plan.checkpoint.shards[number]
        self.source = Source(self.shard)
        self.slot_bytes = window(self.shard, _SLOT_BYTES)
        self.left = plan.count_of(number)
        self.pages: FilePages | None = None
        self._lock = threading.Lock()

    def mapped(self) -> FilePages:
        """The file's pages. Raises: OSError."""
        with self._lock:
            if self.pages is None:
                self.pages = FilePages(self.source.cached(), self.shard.size_bytes, self.shard.path)
            return self.pages


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
        """Take the results' memory; pinned memory is taken as it is needed.

        Raises:
            OverBudget, DeviceError, or what the allocator raises: nothing is left behind.
        """
        self._plan = plan
        self._driver = driver
        self._readers = readers
        self._tally = tally
        self._lock = threading.Lock()
        self._shards = [_Shard(plan, number) for number in range(len(plan.checkpoint.shards))]
        self._marks: dict[int, Slot | Window] = {}
        """By block: whose event its copies lie before."""
        self._closed = False
        slot_bytes = max((_slot_bytes(block, self._shards[block.shard]) for block in plan.blocks), default=_SLOT_BYTES)
        self._ring = Ring(driver, slots=max(2 * threads, 1), slot_bytes=slot_bytes, budget_bytes=pinned_bytes, tally=tally)
        self._windows = Windows(driver, _WINDOWS_BYTES)
        self._registering = threading.Lock()
        self._registers = driver.reads_page_cache and plan.size_bytes >= _PROBE_MIN_BYTES
        self._probed = False
        with driver.attached(), contextlib.ExitStack() as undo:
            refuse_over_budget(plan.size_bytes, device_bytes, driver.free_bytes() + allocator.spare_bytes())
            self._stream = driver.stream()
            undo.callback(driver.end_stream, self._stream)
            sizes = ((name, part.size_bytes) for name, part in plan.parts.items() if part.size_bytes)
            self._buffers = dict(carved(allocator, sizes))
            undo.callback(self._buffers.clear)
            allocator.settle()
            undo.pop_all()

    def attach(self) -> None:
        """Each reading thread, first."""
        self._driver.attach()

    def read(self, number: int) -> None:
        """Bring the block's bytes onto the way to the device, checked.

        Raises:
            OSError, CorruptFile, DeviceError
        """
        block = self._plan.blocks[number]
        shard = self._shards[block.shard]
        resident = shard.source.is_resident(block.start, block.stop)
        way = device_way(resident=resident, readers=self._readers, registers=self._registers)
        if way is not Way.REGISTERED or not self._copy_pages(number, block, shard):
            began, direct, read_s = time.perf_counter(), way is Way.DIRECT, 0.0
            for piece in pieces(block, shard.slot_bytes):
                direct, took_s = self._copy_slot(number, piece, shard, direct=direct)
                read_s += took_s
            self._tally.read(Way.DIRECT if direct else Way.COPIED, block.size_bytes, began, read_s)
        with self._lock:
            shard.left -= 1
            if not shard.left:
                shard.source.close()

    def buffer(self, name: str) -> Buffer:
        """The part's memory, its bytes all there. Its blocks have landed. Raises: DeviceError."""
        with self._driver.attached():
            for number in self._plan.needed(self._plan.parts[name]):
                mark = self._marks.get(number)
                # it may have been recorded again since: a later mark of the same stream, so no less is waited for
                if mark and not self._driver.is_reached(mark.event):
                    self._driver.wait(mark.event)
        return self._buffers[name]

    def forget(self, name: str) -> None:
        """The caller holds the buffer now."""
        self._buffers.pop(name, None)

    def close(self) -> None:
        """No thread may be reading. Waits for the copies, then gives back all but what was handed out. Idempotent."""
        if self._closed:
            return
        for shard in self._shards:
            shard.source.close()
        with contextlib.ExitStack() as attached:
            # after a lost context each call fails, attaching too: the rest is tried all the same
            with contextlib.suppress(DeviceError):
                attached.enter_context(self._driver.attached())
            for end in (partial(self._driver.wait_stream, self._stream), self._windows.close, self._ring.close):
                with contextlib.suppress(DeviceError):
                    end()
            self._marks.clear()
            self._buffers.clear()
            for shard in self._shards:
                file, shard.pages = shard.pages, None
                if file:
                    file.close()
            self._closed = True
            with contextlib.suppress(DeviceError):
                self._driver.end_stream(self._stream)

    def _copy_slot(self, number: int, piece: Block, shard: _Shard, *, direct: bool) -> tuple[bool, float]:
        """Returns whether it was read past the page cache, and for how many seconds."""
        slot = self._ring.acquire()
        try:
            began = time.perf_counter()
            for start, stop in piece.extents:
                direct = _fill(shard.source, slot.view, piece.start, start, stop, direct=direct)
            read_s = time.perf_counter() - began
            self._check(piece, shard, slot.view, piece.start)
            self._copy(piece, slot.address - piece.start)
            self._marks[number] = slot
        finally:
            self._ring.release(slot, self._stream)
        return direct, read_s

    def _copy_pages(self, number: int, block: Block, shard: _Shard) -> bool:
        """By the copy engine from the file's own pages. False: not this time, or not on this machine."""
        if not self._registering.acquire(blocking=False):
            return False
        try:
            if not self._probed:
                self._probed = True
                self._registers = False  # until it is known
                self._registers = self._pays(block, shard)
            return self._registers and self._copy_window(number, block, shard)
        except OSError:
            self._registers = False  # the file cannot be mapped; whether it can be read, slots will find out
            return False
        finally:
            self._registering.release()

    def _copy_window(self, number: int, block: Block, shard: _Shard) -> bool:
        file, low, high = shard.mapped(), block.start, -(-block.stop // PAGE) * PAGE
        if file.populate(low, block.stop):
            return False
        shown = self._windows.show(file.base + low, high - low)
        if shown is None:
            self._registers = False
            return False
        try:
            # only now, when nothing can take the pages away any more
            self._check(block, shard, file.view, 0)
            began = time.perf_counter()
            self._copy(block, file.base)
            self._marks[number] = shown
        finally:
            self._windows.release(shown, self._stream)
        self._tally.read(Way.REGISTERED, block.size_bytes, began)
        return True

    def _pays(self, block: Block, shard: _Shard) -> bool:
        """Whether the copy engine is fast enough at it: the block goes to where it will be read to again."""
        file, low, high = shard.mapped(), block.start, -(-block.stop // PAGE) * PAGE
        if file.populate(low, block.stop):
            return False
        began = time.perf_counter()
        if not self._driver.register(file.base + low, high - low):
            return False
        try:
            self._copy(block, file.base)
        finally:
            self._driver.wait_stream(self._stream)
            self._driver.unregister(file.base + low)
        return block.size_bytes / (time.perf_counter() - began) >= _PAYS_FROM

    def _check(self, block: Block, shard: _Shard, view: memoryview, base: int) -> None:
        sums = shard.shard.sums
        if sums is None:
            return
        began = time.perf_counter()
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


def _slot_bytes(block: Block, shard: _Shard) -> int:
    """What its widest piece takes, in whole pages."""
    return max(-(-(piece.stop - piece.start) // PAGE) * PAGE for piece in pieces(block, shard.slot_bytes))


def _fill(source: Source, view: memoryview, base: int, start: int, stop: int, *, direct: bool) -> bool:
    """Returns whether it went past the page cache."""
    rounded = -(-stop // PAGE) * PAGE
    if direct and source.read_direct(view[start - base : rounded - base], start, stop):
        return True
    source.read_cached(view[start - base : stop - base], start, stop)
    return False
