"""One rate for many threads: whoever asks is told how long to wait. The rate may follow a schedule, and change at any time.

    claimed   bytes asked for so far: a claim begins where the last one ends
    allowed   bytes that may have moved by now: grows with time at the present rate, whatever that is

A claim may move once `allowed` has reached its begin. So a new rate counts at once for those who wait already, and time in
which nobody asked is not saved up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prestage.cacher.transfer.schedule import Schedule

LOOK_S = 0.5
"""How often the schedule is looked at, and how soon a waiting thread sees a new rate."""

Rate = float | Schedule | None
"""Bytes a second, a schedule of them, or None: unlimited."""


class RateLimit:
    """Spreads bytes over time. Thread-safe; `is_off` (no cap and no schedule) costs one look at an attribute."""

    def __init__(
        self, rate: Rate = None, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._schedule: Schedule | None = None
        self._cap: float | None = None
        self._claimed = self._allowed = 0.0
        self._since = self._looked_at = clock()
        self.is_off = True
        self.set_rate(rate)

    def set_rate(self, rate: Rate) -> None:
        """From now on, for those who wait too (within `LOOK_S`)."""
        with self._lock:
            now = self._clock()
            self._schedule = rate if isinstance(rate, Schedule) else None
            self.is_off = rate is None
            self._looked_at = now
            self._change(rate.rate_at(self._wall()) if isinstance(rate, Schedule) else rate, now)

    def current(self) -> float | None:
        """Bytes a second just now; None: unlimited."""
        if self.is_off:
            return None
        with self._lock:
            self._follow(self._clock())
            return self._cap

    def take(self, size_bytes: int, leaving: threading.Event) -> None:
        """Wait until `size_bytes` more may move, first come first served; nothing is taken when `leaving` is set before."""
        if self.is_off:
            return
        claim = self.claim(size_bytes)
        while (wait_s := self.wait_s(claim)) > 0 and not leaving.wait(min(wait_s, LOOK_S)):
            pass
        if leaving.is_set():
            self.give_back(size_bytes)

    def claim(self, size_bytes: int) -> float:
        """Get in line with so many bytes. Ask `wait_s` until it says 0: at least every `LOOK_S`, for the rate may change."""
        with self._lock:
            now = self._clock()
            self._follow(now)
            begin = self._claimed if self._cap is None else max(self._claimed, self._allowed_at(now))
            self._claimed = begin + size_bytes
            return begin

    def wait_s(self, claim: float) -> float:
        """Seconds until the claim may move, as things stand; 0: now."""
        with self._lock:
            now = self._clock()
            self._follow(now)
            return 0.0 if self._cap is None else max(0.0, (claim - self._allowed_at(now)) / self._cap)

    def give_back(self, size_bytes: int) -> None:
        """Bytes of a claim that did not move."""
        with self._lock:
            self._claimed -= size_bytes

    def _allowed_at(self, now: float) -> float:
        return self._allowed + (self._cap or 0.0) * (now - self._since)

    def _follow(self, now: float) -> None:
        if self._schedule is not None and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._change(self._schedule.rate_at(self._wall()), now)

    def _change(self, cap: float | None, now: float) -> None:
        if cap == self._cap:
            return
        # What moved while there was no cap is neither owed nor saved.
        self._allowed = self._claimed if self._cap is None else self._allowed_at(now)
        self._cap, self._since = cap, now
