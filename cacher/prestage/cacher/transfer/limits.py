"""Every number the engine works by, and the pure rules built on them: retries and the connection limit of a lane."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntEnum

from prestage.cacher.digests import CHUNK_BYTES
from prestage.cacher.errors import Misconfigured


class Priority(IntEnum):
    """Who goes first. Lower pre-empts higher."""

    WAITING_POD = 0
    DECLARED = 10
    FOLLOW_ON = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the engine."""

    connections_start: int = 8
    """Connections per lane (scheme, host, port) at first; from there by what the lane gives."""
    connections_max: int = 32
    """Per lane and in all: worker threads, each with one connection and one buffer."""
    buffer_bytes: int = 2 << 20
    """Per connection; divides the chunk. 2 MiB: 8 of them stay in the last-level cache, 32 of them are the 64 MiB bound."""
    rate_bytes_per_s: float | None = None
    """Cap over all transfers together, to begin with; `Engine.rate` changes it at run time."""
    journal_interval_s: float = 1.0
    """Longest time between a piece received and its record durable."""
    journal_bytes: int = 256 << 20
    """Most bytes received whose records are not durable."""
    attempts: int = 8
    """Failures in a row without a byte of progress before a piece gives up."""
    patience_s: float = 300.0
    """Longest time a piece may go without progress, whatever `attempts` says: ends storms of long Retry-After."""
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 20.0
    retry_after_cap_s: float = 60.0
    hedge_slower: float = 5.0
    """With idle connections, a piece this many times slower than the median is fetched by a second one too."""
    hedge_after_s: float = 2.0
    niceness: int = 0
    """Of the worker threads; above 0 also the idle I/O class."""

    def __post_init__(self) -> None:
        if self.buffer_bytes % 4096 or CHUNK_BYTES % self.buffer_bytes:
            raise Misconfigured(f"buffer_bytes {self.buffer_bytes} does not divide {CHUNK_BYTES}")
        if not 1 <= self.connections_start <= self.connections_max:
            raise Misconfigured("connections must be at least 1, and the start not above the maximum")
        if self.connections_max * self.buffer_bytes > 64 << 20:
            raise Misconfigured("connections_max x buffer_bytes is over 64 MiB", hint="use fewer connections or smaller buffers")
        if self.rate_bytes_per_s is not None and self.rate_bytes_per_s <= 0:
            raise Misconfigured("a rate cap must be above zero")

    def portion_bytes(self, rate_bytes_per_s: float | None) -> int:
        """Most that one connection asks for at once: its buffer; under a rate cap so little that all of them get a turn each
        second, for a server gives up on a client that reads too rarely (nginx after 60 s)."""
        portion = self.buffer_bytes
        while rate_bytes_per_s is not None and portion > 64 << 10 and portion * self.connections_max > rate_bytes_per_s:
            portion //= 2
        return portion


def retry_delay_s(limits: Limits, failures: int, after_s: float | None, rng: random.Random) -> float:
    """Seconds to wait after `failures` failures in a row: full jitter, or what the server asked for plus jitter."""
    jitter = rng.uniform(0, min(limits.backoff_cap_s, limits.backoff_base_s * 2.0 ** min(failures, 16)))
    if after_s is None:
        return jitter
    # max(0.0, x) in this order: a server that says NaN gets 0.0.
    return min(max(0.0, after_s), limits.retry_after_cap_s) + min(jitter, 1.0)


class Patience:
    """How often and how long something failed without progress in between."""

    def __init__(self) -> None:
        self.failures = 0
        self.not_before = 0.0
        self._since: float | None = None

    def progressed(self) -> None:
        """A byte moved: all is forgiven."""
        self.failures, self._since = 0, None

    def failed(self, now: float, delay_s: float) -> None:
        """Once more; not again before `delay_s` from now."""
        self.failures += 1
        self._since = now if self._since is None else self._since
        self.not_before = now + delay_s

    def is_over(self, limits: Limits, now: float) -> bool:
        """The budget is spent."""
        return self.failures >= limits.attempts or (self._since is not None and now - self._since > limits.patience_s)


class LaneLimit:
    """How many connections one origin gets: additive increase while it pays, halved when it says it is too much.

    Pure but for its own state: the caller brings the clock.
    """

    HOLD_AFTER_CONGESTION_S = 5.0
    HOLD_AFTER_NO_GAIN_S = 10.0
    GAIN = 1.05
    STEP = 2

    def __init__(self, limits: Limits) -> None:
        self.current = limits.connections_start
        self._max = limits.connections_max
        self._hold_until = 0.0
        self._storm_until = 0.0
        self._rate_before_step: float | None = None

    def congested(self, now: float) -> None:
        """The origin answered 429/503 or broke connections for load. One storm halves once."""
        if now < self._storm_until:
            return
        self.current = max(1, self.current // 2)
        self._hold_until = self._storm_until = now + self.HOLD_AFTER_CONGESTION_S
        self._rate_before_step = None

    def observe(self, now: float, bytes_per_s: float, *, saturated: bool) -> None:
        """A measured second. `saturated`: every connection was busy and more work waited."""
        if not saturated or now < self._hold_until:
            return
        if self._rate_before_step is not None and bytes_per_s < self._rate_before_step * self.GAIN:
            self.current = max(1, self.current - self.STEP)
            self._rate_before_step = None
            self._hold_until = now + self.HOLD_AFTER_NO_GAIN_S
            return
        self._rate_before_step = bytes_per_s
        self.current = min(self._max, self.current + self.STEP)
