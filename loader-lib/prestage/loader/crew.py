"""The threads that read blocks. Daemons: a serving process that ends does not wait for a load, and none is left after `end`."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable

from prestage.loader.blocks import BlockQueue

THREADS = 16
"""8 reads of 8 MiB keep a disk at its limit. The others fault memory in and check sums meanwhile: with 8 threads in all the disk
had 7 reads, and where cores were scarce 12-19 % less to do when sums were checked (docs/loader.md)."""
DEVICE_THREADS = 12
"""To a device: 4 GB on an H200 took 0.18-0.19 s with 10 to 14 threads, 0.20-0.22 with 16 (docs/loader.md)."""

_running: weakref.WeakSet[Crew] = weakref.WeakSet()


class Crew:
    """Threads that take blocks of one queue until none is left."""

    def __init__(
        self, queue: BlockQueue, read: Callable[[int], None], count: int, *, enter: Callable[[], None] | None = None
    ) -> None:
        """`enter` is called once in each thread before its first block; what it raises ends the load.

        Raises:
            RuntimeError: the system gives not one thread (RLIMIT_NPROC, a container's pids.max). Fewer than `count` will do.
        """
        self._queue = queue
        self._threads: list[threading.Thread] = []
        _running.add(self)
        for number in range(count):
            thread = threading.Thread(target=_work, args=(queue, read, enter), name=f"prestage-loader-{number}", daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:
                self._threads.remove(thread)
                if not self._threads:
                    raise
                break
            except BaseException:  # Ctrl-C: nobody will end those that read already
                self.end()
                raise

    def end(self) -> None:
        """Stop the queue and return when no thread reads any more: at most a block's time each."""
        self._queue.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                with contextlib.suppress(RuntimeError):  # not begun yet: it finds the queue stopped
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
