"""The threads that read blocks. Daemons: a serving process that ends does not wait for a load, and none is left after `end`."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable

from prestage.loader.blocks import BlockQueue

THREADS = 8
"""In flight 8 x 8 MiB: the disk's limit (4 to 8 threads: +15 %, 16: nothing; docs/loader.md)."""

_running: weakref.WeakSet[Crew] = weakref.WeakSet()


class Crew:
    """Threads that take blocks of one queue until none is left."""

    def __init__(
        self, queue: BlockQueue, read: Callable[[int], None], count: int, *, enter: Callable[[], None] | None = None
    ) -> None:
        """`enter` is called once in each thread before its first block; what it raises ends the load."""
        self._queue = queue
        self._threads = [
            threading.Thread(target=_work, args=(queue, read, enter), name=f"prestage-loader-{number}", daemon=True)
            for number in range(count)
        ]
        _running.add(self)
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop the queue and return when no thread reads any more: at most a block's time each."""
        self._queue.stop()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()


def _work(queue: BlockQueue, read: Callable[[int], None], enter: Callable[[], None] | None) -> None:
    block = queue.take()
    try:
        if block is not None and enter:
            enter()
        while block is not None:
            read(block)
            queue.land(block)
            block = queue.take()
    except BaseException as exc:  # noqa: BLE001 - the thread's edge: whoever waits for the block raises it
        queue.fail(exc)


def _end_all() -> None:
    """Before the interpreter takes memory away from under them."""
    for crew in list(_running):
        crew.end()


atexit.register(_end_all)
