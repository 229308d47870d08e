"""Device memory for tensors: from the driver, or whoever else owns an allocator.

The driver's is shared by neighbours, in pieces that go with the last of their tensors.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Protocol

from prestage.loader.errors import DeviceError, OverBudget
from prestage.loader.memory.ports import ALIGN_BYTES, Driver

PIECE_BYTES = 128 << 20
"""Tensors share one allocation up to this size: what a dropped tensor may keep, against 0.1 ms for each of thousands."""


class Buffer(Protocol):
    """Device memory that lives as long as this object."""

    @property
    def address(self) -> int:
        """Of the first byte."""


class Allocator(Protocol):
    """Where a load's results go."""

    @property
    def piece_bytes(self) -> int:
        """Up to which size neighbours share an allocation; 0: each has its own."""

    def allocate(self, size_bytes: int) -> Buffer:
        """Aligned to ALIGN_BYTES. Raises: DeviceError, or what a framework says."""

    def settle(self) -> None:
        """Wait until what was allocated may be copied to. Raises: as `allocate`."""

    def spare_bytes(self) -> int:
        """What it has taken from the driver and would give out first."""


def carved(allocator: Allocator, sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, Buffer]]:
    """A buffer for each name, in this order; no size is 0. Raises: as `allocate`."""
    for size, offsets in _pieces(sizes, allocator.piece_bytes):
        whole = allocator.allocate(size)
        for name, offset in offsets:
            yield name, whole if len(offsets) == 1 else Share(whole, offset)
        del whole  # or the traceback of the next one's error keeps it


def _pieces(sizes: Iterable[tuple[str, int]], piece_bytes: int) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Size, and (name, offset) of those that share it."""
    held: list[tuple[str, int]] = []
    stop = 0
    for name, size in sizes:
        at = -(-stop // ALIGN_BYTES) * ALIGN_BYTES
        if held and at + size > piece_bytes:
            yield stop, held
            held, at = [], 0
        held.append((name, at))
        stop = at + size
    if held:
        yield stop, held


class Allocation:
    """One piece of the driver's memory, given back once, when this object goes."""

    def __init__(self, driver: Driver, size_bytes: int) -> None:
        """Raises: DeviceError."""
        self.address = driver.allocate(size_bytes)
        # not at exit: the driver may be gone, and takes everything back by itself
        weakref.finalize(self, _free, driver, self.address).atexit = False


class Share:
    """Part of an allocation, which it keeps."""

    def __init__(self, whole: Buffer, offset: int) -> None:
        self._whole = whole
        self.address = whole.address + offset


class DriverMemory:
    """An `Allocator` on the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.piece_bytes = PIECE_BYTES

    def allocate(self, size_bytes: int) -> Buffer:
        """Raises: DeviceError."""
        return Allocation(self._driver, size_bytes)

    def settle(self) -> None:
        """Nobody else has used it."""

    def spare_bytes(self) -> int:
        """It keeps nothing."""
        return 0


def refuse_over_budget(wanted_bytes: int, budget_bytes: int | None, free_bytes: int) -> None:
    """Before anything is taken. Raises: OverBudget."""
    limit = free_bytes if budget_bytes is None else budget_bytes
    if wanted_bytes > limit:
        what = "is free on the device" if budget_bytes is None else "device_bytes allows"
        raise OverBudget(f"{wanted_bytes} bytes of tensors, {limit} {what}", hint="load fewer (names, slices), or raise it")


def _free(driver: Driver, address: int) -> None:
    """On whatever thread the last reference went."""
    # a lost context took the memory with it; nobody is there who could be told
    with contextlib.suppress(DeviceError), driver.attached():
        driver.free(address)
