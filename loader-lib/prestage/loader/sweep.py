"""Doing something to every window of a file, on a few threads, and having the error that a single thread would have had."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence

WINDOW_BYTES = 16 << 20
"""What a thread takes at a time: four chunks, enough for a disk to stream and few enough that all threads end together."""
_THREADS_MIN, _THREADS_MAX = 4, 8
"""At least 4 keep a disk busy while some hash, whatever the cores; 8 read at the limit of a disk (4 to 8: +15 %, measured)."""

Window = tuple[int, int]


def windows(start: int, stop: int, align: int) -> list[Window]:
    """[start, stop) in windows whose inner borders are multiples of `align`."""
    step = max(WINDOW_BYTES // align, 1) * align
    borders = [start, *range(start - start % align + step, stop, step), stop]
    return list(itertools.pairwise(borders)) if stop > start else []


def sweep(windows: Sequence[Window], work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` for each window, in parallel where there are several; returns when all are done.

    Raises:
        Exception: what `work` raised for the first window, in the order of `windows`, that failed. Windows not yet begun are
            dropped, none runs on when this returns.
    """
    if len(windows) < 2:
        for start, stop in windows:
            work(start, stop)
        return
    # not at import: 10 ms that small files never need
    from concurrent.futures import ThreadPoolExecutor

    threads = min(len(windows), max(_THREADS_MIN, min(_THREADS_MAX, len(os.sched_getaffinity(0)))))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prestage-loader")
    try:
        for future in [pool.submit(work, start, stop) for start, stop in windows]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
