"""The page table is told of what is resident while the load's user is busy otherwise.

Who touches a map takes a fault for each 64 KiB of it, a fifth of the time of reading it once (docs/loader.md). One thread does
the same work beside that, in the order of the bytes. Nothing depends on it: nobody waits for it, `close` neither, which leaves
the tensors as they are; it ends with them.
"""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable, Iterable

from prestage.loader.memory.region import Region
from prestage.loader.plan import Block

_RUN_BYTES = 64 << 20
"""At once: half a millisecond in which the process can map nothing else. A load that is no longer has no use for a thread."""


def enter_ahead(blocks: Iterable[tuple[Region, Block]]) -> None:
    """Begin; `blocks` are resident, mapped and in the order of their bytes."""
    runs: list[tuple[Region, int, int]] = []
    for region, block in blocks:
        if runs and runs[-1][0] is region and runs[-1][2] == block.start and block.stop - runs[-1][1] <= _RUN_BYTES:
            runs[-1] = (region, runs[-1][1], block.stop)
        else:
            runs.append((region, block.start, block.stop))
    if len(runs) > 1:
        later = [region.populating(start, stop) for region, start, stop in runs]
        with contextlib.suppress(RuntimeError):  # no thread to be had
            _thread.start_new_thread(_enter, (later,))  # unlike threading.Thread.start it does not wait for a core to run it


def _enter(runs: list[Callable[[], bool]]) -> None:
    for populate in runs:
        populate()
