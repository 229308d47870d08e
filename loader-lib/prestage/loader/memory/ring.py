"""A few slots of pinned memory, allocated once, through which all bytes for a device pass.

    acquire ─▶ read into the slot, verify ─▶ copies on the stream ─▶ release: an event behind them ─▶ acquire waits for it

Invariant: between `acquire` and `release` a slot is one thread's, and no copy reads from it.
"""

from __future__ import annotations

import ctypes
import queue
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
        """As many slots as the budget has room for, at most `slots`.

        Raises:
            OverBudget: not even one fits. DeviceError: no pinned memory; nothing is left behind.
        """
        count = min(slots, budget_bytes // slot_bytes)
        if not count:
            raise OverBudget(
                f"one slot of the ring takes {slot_bytes} bytes, pinned_bytes is {budget_bytes}", hint="raise pinned_bytes"
            )
        self._driver = driver
        self._tally = tally
        self.size_bytes = count * slot_bytes
        self._base = driver.pin(self.size_bytes)
        self._slots: list[Slot] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        try:
            for number in range(count):
                address = self._base + number * slot_bytes
                view = memoryview((ctypes.c_char * slot_bytes).from_address(address)).cast("B")
                slot = Slot(address, view, driver.event())
                self._slots.append(slot)
                self._free.put(slot)
        except DeviceError:
            self.close()
            raise

    def acquire(self) -> Slot:
        """The slot that was released first, once nothing reads from it any more. Raises: DeviceError."""
        began = time.perf_counter()
        slot = self._free.get()
        try:
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
        for slot in self._slots:
            try:
                self._driver.end_event(slot.event)
            except DeviceError as exc:
                failure = exc
        self._slots.clear()
        try:
            self._driver.unpin(self._base)
        except DeviceError as exc:
            failure = exc
        if failure:
            raise failure
