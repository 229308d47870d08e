"""Stretches of files in the page cache that the device's copy engine reads where they are.

What the driver registers is a shared map without write access. Of a private one the kernel would have to copy each page first:
to pin it for long is to own it (FOLL_LONGTERM), and the page cache is not the process's. On an H200 (driver 580) registering
64 MiB of a private map did not come back.

Invariant: no map goes, and no stretch is unregistered, before the copies from it are done.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from dataclasses import dataclass

from prestage.loader import pages
from prestage.loader.errors import DeviceError
from prestage.loader.memory.ports import Driver


class FilePages:
    """All of a file's pages, read only. They must not be read before `populate` said 0: a hole of a shrunken file is a SIGBUS."""

    def __init__(self, fd: int, size_bytes: int, path: str) -> None:
        """Raises: OSError: not mappable, or no address space."""
        self._taken = -(-size_bytes // pages.PAGE) * pages.PAGE
        self.base = pages.map_shared(fd, self._taken, path)
        self.view = memoryview((ctypes.c_char * self._taken).from_address(self.base)).cast("B").toreadonly()

    def populate(self, start: int, stop: int) -> int:
        """`pages.populate` for [start, stop), `start` page-aligned."""
        return pages.populate(self.base + start, stop - start)

    def close(self) -> None:
        """Once; nothing of it is registered."""
        self.view.release()
        pages.unmap(self.base, self._taken)


@dataclass(slots=True)
class Window:
    """One registered stretch, and the event behind the copies that read it."""

    address: int
    size_bytes: int
    event: int


class Windows:
    """Of one load. Thread-safe; threads that use it have attached."""

    def __init__(self, driver: Driver, budget_bytes: int) -> None:
        """The page cache cannot give up what is registered: at most `budget_bytes` at a time. To unregister is to wait for all
        copies under way, so nothing is before it must be."""
        self._driver = driver
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._shown: deque[Window] = deque()
        self._events: list[int] = []

    def show(self, address: int, size_bytes: int) -> Window | None:
        """Let the copy engine read whole pages of a map. None: the driver refuses. Raises: DeviceError."""
        while oldest := self._over(size_bytes):
            try:
                self._driver.wait(oldest.event)
                self._driver.unregister(oldest.address)
            except DeviceError:
                with self._lock:
                    self._shown.appendleft(oldest)
                raise
        event = self._driver.event()
        with self._lock:
            self._events.append(event)
        if not self._driver.register(address, size_bytes):
            return None
        return Window(address, size_bytes, event)

    def release(self, window: Window, stream: int) -> None:
        """Also after a failure: what was put into the stream before it still reads what it shows. Raises: DeviceError."""
        try:
            self._driver.record(window.event, stream)
        finally:
            with self._lock:
                self._shown.append(window)

    def close(self) -> None:
        """The stream's work is done and no thread holds a window. Goes on where a call fails: after a lost context all do."""
        failure: DeviceError | None = None
        while self._shown or self._events:
            try:
                if self._shown:
                    self._driver.unregister(self._shown.popleft().address)
                else:
                    self._driver.end_event(self._events.pop())
            except DeviceError as exc:
                failure = exc
        if failure:
            raise failure

    def _over(self, size_bytes: int) -> Window | None:
        """The oldest, now the caller's, where another one is too much."""
        with self._lock:
            held = sum(window.size_bytes for window in self._shown)
            return self._shown.popleft() if self._shown and held + size_bytes > self._budget_bytes else None
