"""A file's bytes into a socket without a copy: what lies in the page cache at once, what does not from a thread that may wait.

The loop must not wait for a disk: every connection of the worker would. Freshly fetched blobs were written past the page cache,
so the first peer to ask always finds them cold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

STEP_BYTES = 2 << 20
"""Most that one call hands to the kernel: a turn of one connection among many (nginx: sendfile_max_chunk 2m)."""
_AHEAD_BYTES = 4 << 20
_ADVICE_BYTES = 128 << 10
"""The kernel cuts one advice off at the device's read-ahead; this is its default."""


def is_resident(fd: int, offset: int) -> bool:
    """Is the byte at `offset` in the page cache? Asked without waiting for the disk."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that cannot say: then sendfile waits


def send_step(sock: int, fd: int, offset: int, size_bytes: int) -> int | None:
    """Hand some of the bytes at `offset` to the socket. None: it takes none now. 0: the file has ended.

    Raises:
        OSError: the peer is gone.
    """
    try:
        return os.sendfile(sock, fd, offset, min(size_bytes, STEP_BYTES))
    except BlockingIOError:
        return None


def send_cold_step(sock: int, fd: int, offset: int, size_bytes: int, stop: int) -> int | None:
    """As `send_step`; waits for the disk, and lets it read on (up to `stop`) while the network is at work."""
    for ahead in range(offset, min(offset + _AHEAD_BYTES, stop), _ADVICE_BYTES):
        os.posix_fadvise(fd, ahead, min(_ADVICE_BYTES, stop - ahead), os.POSIX_FADV_WILLNEED)
    return send_step(sock, fd, offset, size_bytes)


class Pace:
    """Spreads what one worker sends over time: its part of the cap over all. One thread."""

    def __init__(self, rate: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: bytes a second now, 0 for no cap."""
        self._rate, self._clock = rate, clock
        self._free_at = 0.0

    def wait_s(self) -> float:
        """How long until more may be sent, 0 for now."""
        return max(0.0, self._free_at - self._clock()) if self._rate() else 0.0

    @property
    def step_bytes(self) -> int:
        """Most to send at once: a tenth of a second's worth, so that connections take turns."""
        rate = self._rate()
        return STEP_BYTES if not rate else max(16 << 10, min(STEP_BYTES, int(rate / 10)))

    def sent(self, size_bytes: int) -> None:
        """So many bytes went."""
        if rate := self._rate():
            self._free_at = max(self._free_at, self._clock()) + size_bytes / rate
