"""Host memory as a device: copies run at once. What tests and probes compare the others with."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading

from prestage.loader import pages
from prestage.loader.errors import DeviceError

_INVALID = 1
_OUT_OF_MEMORY = 2


class HostMemory:
    """A `Driver` whose device is anonymous memory."""

    device = (1, 0)
    reads_page_cache = True

    def __init__(self, size_bytes: int = 1 << 40) -> None:
        """A device of this size."""
        self._size = size_bytes
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}
        self._registered: set[int] = set()
        self._handles = itertools.count(1)

    def attach(self) -> None:
        """Nothing to do."""

    def attached(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to do."""
        return contextlib.nullcontext()

    def free_bytes(self) -> int:
        """Of the size given."""
        with self._lock:
            return self._size - sum(self._held.values())

    def allocate(self, size_bytes: int) -> int:
        """Whole pages."""
        if size_bytes > self.free_bytes():
            raise DeviceError(f"allocating {size_bytes} bytes: out of memory", code=_OUT_OF_MEMORY)
        address = pages.reserve(size_bytes)
        with self._lock:
            self._held[address] = size_bytes
        return address

    def free(self, address: int) -> None:
        """Unmapped: a later use is a fault."""
        with self._lock:
            size = self._held.pop(address, None)
        if size is None:
            raise DeviceError(f"freeing {address:#x}: not allocated", code=_INVALID)
        pages.unmap(address, size)

    pin = allocate
    unpin = free

    def register(self, address: int, size_bytes: int) -> bool:
        """Always granted."""
        if address % pages.PAGE or not size_bytes:
            raise DeviceError(f"registering {size_bytes} bytes at {address:#x}: no whole pages", code=_INVALID)
        with self._lock:
            self._registered.add(address)
        return True

    def unregister(self, address: int) -> None:
        """Once."""
        with self._lock:
            if address not in self._registered:
                raise DeviceError(f"unregistering {address:#x}: not registered", code=_INVALID)
            self._registered.remove(address)

    def stream(self) -> int:
        """A number."""
        return next(self._handles)

    event = stream

    def end_stream(self, stream: int) -> None:
        """Nothing runs."""

    def end_event(self, event: int) -> None:
        """Nothing runs."""

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """At once."""
        ctypes.memmove(target, source, size_bytes)

    def copy_rows(
        self, target: int, source: int, *, width: int, rows: int, target_pitch: int, source_pitch: int, stream: int
    ) -> None:
        """At once."""
        for row in range(rows):
            ctypes.memmove(target + row * target_pitch, source + row * source_pitch, width)

    def record(self, event: int, stream: int) -> None:
        """Already reached."""

    def is_reached(self, event: int) -> bool:
        """Always."""
        return True

    def wait(self, event: int) -> None:
        """Already reached."""

    def wait_stream(self, stream: int) -> None:
        """Already done."""

    def read_back(self, address: int, size_bytes: int) -> bytes:
        """A copy."""
        return ctypes.string_at(address, size_bytes)
