"""An event that knows since when it is set: how long a change waited for whoever acts on it."""

from __future__ import annotations

import asyncio
import time


class News(asyncio.Event):
    """`since_s` (time.monotonic) is the first `set` since the last `clear`; meaningless before."""

    def __init__(self) -> None:
        super().__init__()
        self.since_s = 0.0

    def set(self) -> None:
        """See asyncio.Event."""
        if not self.is_set():
            self.since_s = time.monotonic()
        super().set()
