"""How far an archive is, told to a watcher several times a second."""

from __future__ import annotations

import time

from prestage.cacher.staging import Watcher
from prestage.cacher.transfer.job import Progress

_PROGRESS_S = 0.2


class Meter:
    """Tells a watcher how far it is, several times a second."""

    def __init__(self, watcher: Watcher, total_bytes: int, source: str) -> None:
        self._watcher, self._total, self._source = watcher, total_bytes, source
        self._began = self._last = time.monotonic()
        self._done = 0

    def moved(self, size_bytes: int) -> None:
        """So many bytes more."""
        self._done += size_bytes
        now = time.monotonic()
        if now - self._last >= _PROGRESS_S or self._done == self._total:
            self._last = now
            rate = self._done / max(now - self._began, 1e-3)
            self._watcher.progress(Progress(self._done, self._total, rate, 0, self._source))
