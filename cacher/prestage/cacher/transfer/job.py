"""What is asked of the engine: files to move, and how far each has come. Values and counters; the queue's lock guards them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from prestage.cacher.digests import piece_count, piece_span
from prestage.cacher.transfer.flight import Flight
from prestage.cacher.transfer.limits import Patience, Priority
from prestage.cacher.transfer.ordered import Follower
from prestage.cacher.transfer.ports import PieceRecord, Proof, Sink, Source


class Transfer:
    """One file from a source to a sink. With a `proof` no piece counts, or reaches the journal, that it refuses.

    `is_hashed` false: its records carry no digests and sums, for a sink whose bytes are checked elsewhere.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        sink: Sink,
        follower: Follower | None = None,
        proof: Proof | None = None,
        *,
        is_hashed: bool = True,
    ) -> None:
        self.path, self.source, self.sink, self.follower, self.proof = path, source, sink, follower, proof
        self.is_hashed = is_hashed
        have = set(sink.journaled())
        self.pending = deque(piece for piece in range(piece_count(sink.size_bytes)) if piece not in have)
        self.flying: set[Flight] = set()
        self.begun: dict[int, Flight] = {}
        """Of `pending`, pieces that an attempt with ranges left at their cursor before the source said it has none."""
        self.has_ranges = True
        """False once the source said so: then one connection reads the file from its start."""
        self.patience = Patience()
        """Of a read without ranges."""
        if follower is not None:
            for piece in have:
                follower.advance(piece)

    def flight(self, piece: int) -> Flight:
        """For the next attempt on `piece`: the one that was begun, or a fresh one."""
        return self.begun.pop(piece, None) or Flight(self, piece)

    @property
    def left_bytes(self) -> int:
        """Bytes of the pieces not begun."""
        return sum(stop - start for start, stop in (piece_span(self.sink.size_bytes, piece) for piece in self.pending))


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
