"""The link: all bodies of a server together leave at a stated rate, first come, first served. Thread-safe."""

from __future__ import annotations

import threading
import time


class Link:
    """A clock that says when the next bytes may go. `bytes_per_s` None: as fast as it goes."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def send(self, size_bytes: int) -> None:
        """Block until `size_bytes` have had their time on the wire."""
        if self._rate is None:
            return
        with self._lock:
            done_at = max(time.monotonic(), self._free_at) + size_bytes / self._rate
            self._free_at = done_at
        time.sleep(max(0.0, done_at - time.monotonic()))
