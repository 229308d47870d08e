"""A few slots of pinned memory, each pinned when it is first needed, through which bytes for a device pass.

    acquire ─▶ read into the slot, verify ─▶ copies on the stream ─▶ release: an event behind them ─▶ acquire waits for it

Invariant: between `acquire` and `release` a slot is one thread's, and no copy reads from it.
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from dataclasses import dataclass

from prestage.loader.errors import DeviceError, OverBudget
from prestage.loader.memory.ports import Driver
from prestage.loader.tally import Tally


@dataclass(slots=True)
class Slot:
    """Page-aligned bytes, and the event behind the copies that read them last."""

    address: int
    view: memoryview
    event: int


class Ring:
    """Slots of one load. Thread-safe; threads that use it have attached."""

    def __init__(self, driver: Driver, *, slots: int, slot_bytes: int, budget_bytes: int, tally: Tally) -> None:
        """As many slots as the budget has room for, at most `slots`. Takes nothing yet.

        Raises:
            OverBudget: not even one fits.
        """
        self._unpinned = min(slots, budget_bytes // slot_bytes)
        if not self._unpinned:
            raise OverBudget(
                f"one slot of the ring takes {slot_bytes} bytes, pinned_bytes is {budget_bytes}", hint="raise pinned_bytes"
            )
        self._driver = driver
        self._tally = tally
        self.slot_bytes = slot_bytes
        self._lock = threading.Lock()
        self._slots: list[Slot] = []
        self._free: queue.SimpleQueue[Slot | DeviceError] = queue.SimpleQueue()
        """An error: there is no memory for a slot, and who waits for one may wait for ever."""

    def acquire(self) -> Slot:
        """The slot that was released first, once nothing reads from it any more; a new one while there is room and none is idle.

        Raises:
            DeviceError: also: no pinned memory.
        """
        began = time.perf_counter()
        slot = self._waited()
        try:
            if not self._driver.is_reached(slot.event):
                if fresh := self._pinned():
                    self._free.put(slot)
                    slot = fresh
                self._driver.wait(slot.event)
        except DeviceError:
            self._free.put(slot)
            raise
        self._tally.waited_for_slot(began)
        return slot

    def release(self, slot: Slot, stream: int) -> None:
        """Also after a failure: what was put into the stream before it still reads from the slot. Raises: DeviceError."""
        try:
            self._driver.record(slot.event, stream)
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """The stream's work is done and no thread holds a slot. Goes on where a call fails: after a lost context all do."""
        failure: DeviceError | None = None
        while self._slots:
            slot = self._slots.pop()
            for end, handle in ((self._driver.end_event, slot.event), (self._driver.unpin, slot.address)):
                try:
                    end(handle)
                except DeviceError as exc:
                    failure = exc
        if failure:
            raise failure

    def _waited(self) -> Slot:
        try:
            found = self._free.get_nowait()
        except queue.Empty:
            found = self._pinned() or self._free.get()
        if isinstance(found, DeviceError):
            self._free.put(found)  # for the next who waits
            raise found
        return found

    def _pinned(self) -> Slot | None:
        with self._lock:
            if not self._unpinned:
                return None
            self._unpinned -= 1
        try:
            event = self._driver.event()
            try:
                address = self._driver.pin(self.slot_bytes)
            except DeviceError:
                self._driver.end_event(event)
                raise
        except DeviceError as exc:
            self._free.put(exc)
            raise
        slot = Slot(address, memoryview((ctypes.c_char * self.slot_bytes).from_address(address)).cast("B"), event)
        with self._lock:
            self._slots.append(slot)
        return slot
