"""Memory for blocks is faulted in by one thread, a little before their readers come to it.

A read into new memory takes its page faults in the kernel while the disk waits for the next request: a twentieth of a cold load
(docs/loader.md). Blocks are begun in their order, but for those that somebody waits for; a block that is begun is its reader's
alone, so that memory that was given back is never faulted in again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from prestage.loader.crew import THREADS

LEAD_BLOCKS = 16
"""Beyond those that were begun, 128 MiB: 24 were not faster, 8 hardly slower."""


class Prefault:
    """One thread over the blocks 0 to `count` - 1. The first ones have a reader each from the start, and are left to them."""

    def __init__(self, count: int, fault_in: Callable[[int], bool], *, first: int = THREADS) -> None:
        """`fault_in(block)`: False ends it, as `end` does; readers fault in what is left.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self._fault_in = fault_in
        self._begun = bytearray(count)
        self._next = first
        self._now = -1
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="prestage-loader-prefault", daemon=True)
        self._thread.start()

    def begin(self, block: int) -> None:
        """A reader comes to a block. Waits while it is being faulted in."""
        with self._changed:
            self._begun[block] = 1
            self._changed.notify_all()
            while self._now == block:
                self._changed.wait()

    def end(self) -> None:
        """Return when nothing is faulted in any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            block = self._take()
            while block >= 0 and self._fault_in(block):
                block = self._take()
        finally:
            with self._changed:
                self._now = -1
                self._changed.notify_all()

    def _take(self) -> int:
        """The next block, when it is its turn; negative when there is none."""
        with self._changed:
            self._now = -1
            self._changed.notify_all()
            while not self._ended:
                begun = self._begun.count(1)
                self._next = self._begun.find(0, max(self._next, begun))
                if self._next < 0 or self._next < begun + LEAD_BLOCKS:
                    self._now = self._next
                    self._next += 1
                    return self._now
                self._changed.wait()
            return -1
