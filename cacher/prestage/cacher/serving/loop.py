"""One thread, one epoll: descriptors, timers, and what is done elsewhere in a few threads because it may wait for the disk."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")
_THREADS = 8
"""For whatever may block: opening files, parsing metas, sending what is not in the page cache. Eight reads keep a disk busy."""


class Loop:
    """See the module. Everything but `call` belongs to its thread. Close it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="prestage-serving")
        self._woken, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._woken, select.EPOLLIN, self._on_wake)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` as often as `fd` is ready; errors and hang-ups always count as ready."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched descriptor; 0 for none but errors."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Before it is closed. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Once, after so long."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), call))

    def call(self, call: Callable[[], None]) -> None:
        """Soon, in the loop's thread. From any thread."""
        self._calls.append(call)
        with suppress(BlockingIOError):  # full: it wakes anyway
            os.write(self.waker, b"\0")

    def in_thread(self, work: Callable[[], _T], done: Callable[[_T | Exception], None]) -> None:
        """Do `work` in another thread; `done` gets what it returned or raised, in this one."""

        def run() -> None:
            outcome: _T | Exception
            try:
                outcome = work()
            except Exception as exc:  # noqa: BLE001 - the edge of a thread: `done` judges it
                outcome = exc
            self.call(lambda: done(outcome))

        self._threads.submit(run)

    def turn(self, longest_s: float) -> None:
        """Wait for something to happen, at most so long, and see to it."""
        if self._timers:
            longest_s = min(longest_s, max(0.0, self._timers[0][0] - time.monotonic()))
        for fd, events in self._epoll.poll(longest_s):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        while self._calls:
            self._calls.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _on_wake(self, _: int) -> None:
        with suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass

    def close(self) -> None:
        """Waits for what the threads do."""
        self._threads.shutdown()
        self._epoll.close()
        os.close(self._woken)
        os.close(self.waker)
