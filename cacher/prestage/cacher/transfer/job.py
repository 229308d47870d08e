"""What is asked of the engine: files to move, and how far each has come. Values and counters; the queue's lock guards them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from prestage.cacher.transfer.flight import Flight, Transfer
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import PieceRecord


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    bytes_done: int
    """Received, of `bytes_total`; what an earlier run had journaled is in neither."""
    bytes_total: int
    bytes_per_s: float
    retries: int
    source: str


@dataclass(slots=True, eq=False)
class Job:
    """A set of transfers that succeed or fail together."""

    transfers: list[Transfer]
    priority: Priority
    added_at: float = 0.0
    """When the queue took it in, by its clock."""
    waiting: deque[Transfer] = field(default_factory=deque)
    """Transfers with pieces that nobody has begun."""
    parked: list[Flight] = field(default_factory=list)
    """Pieces begun and left, for a pause or for somebody more urgent."""
    unsaved: list[tuple[Transfer, PieceRecord]] = field(default_factory=list)
    """Received, record not durable yet."""
    unsaved_bytes: int = 0
    journaling: int = 0
    """Records that the journal is writing just now."""
    left: int = 0
    """Pieces whose records are not durable yet, begun or not."""
    active: int = 0
    """Connections at work for it."""
    bytes_total: int = 0
    bytes_by_source: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    last_trouble: str = ""
    error: BaseException | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when the job failed or was cancelled: its attempts end at their next buffer."""

    def __post_init__(self) -> None:
        self.waiting.extend(transfer for transfer in self.transfers if transfer.pending)
        self.left = sum(len(transfer.pending) for transfer in self.waiting)
        self.bytes_total = sum(transfer.left_bytes for transfer in self.waiting)

    @property
    def has_ended(self) -> bool:
        """Every record is durable; or it failed, nobody works for it any more, and what it received is durable."""
        return self.left == 0 if self.error is None else self.active == 0 and not self.unsaved and not self.journaling
