"""A token bucket: many threads, one rate."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Spreads bytes over time. Thread-safe; None as the rate lets everything through."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._rate = bytes_per_s
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size_bytes: int, leaving: threading.Event) -> None:
        """Wait until `size_bytes` more may move, first come first served; nothing is taken when `leaving` is set before."""
        if self._rate is None:
            return
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = start + size_bytes / self._rate
        if leaving.wait(max(0.0, start - time.monotonic())):
            with self._lock:
                self._free_at -= size_bytes / self._rate
