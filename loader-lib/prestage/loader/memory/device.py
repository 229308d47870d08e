"""Device memory for tensors: from the driver, or whoever else owns an allocator.

A tensor below SLAB_MIN bytes shares a slab with its neighbours, which goes with the last of them: thousands of norms are not
thousands of driver calls.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Protocol

from prestage.loader.errors import DeviceError, OverBudget
from prestage.loader.memory.ports import ALIGN_BYTES, Driver

SLAB_MIN = 1 << 20
SLAB_BYTES = 16 << 20


class Buffer(Protocol):
    """Device memory that lives as long as this object."""

    @property
    def address(self) -> int:
        """Of the first byte."""


class Allocator(Protocol):
    """Where a load's results go."""

    def allocate(self, sizes: Iterable[tuple[str, int]]) -> dict[str, Buffer]:
        """A buffer for each name. Raises: DeviceError: nothing is kept."""


class Allocation:
    """One piece of the driver's memory, given back once, when this object goes."""

    def __init__(self, driver: Driver, size_bytes: int) -> None:
        """Raises: DeviceError."""
        self.address = driver.allocate(size_bytes)
        # not at exit: the driver may be gone, and takes everything back by itself
        weakref.finalize(self, _free, driver, self.address).atexit = False


class Share:
    """Part of an allocation."""

    def __init__(self, whole: Allocation, offset: int) -> None:
        self._whole = whole
        self.address = whole.address + offset


class DriverMemory:
    """An `Allocator` on the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def allocate(self, sizes: Iterable[tuple[str, int]]) -> dict[str, Buffer]:
        """Large ones each their own, small ones in slabs. Raises: DeviceError: what was allocated before is given back."""
        buffers: dict[str, Buffer] = {}
        slab, used = None, SLAB_BYTES
        for name, size in sizes:
            if size >= SLAB_MIN:
                buffers[name] = Allocation(self._driver, size)
                continue
            if used + size > SLAB_BYTES:
                slab, used = Allocation(self._driver, SLAB_BYTES), 0
            assert slab
            buffers[name] = Share(slab, used)
            used += -(-size // ALIGN_BYTES) * ALIGN_BYTES
        return buffers


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
