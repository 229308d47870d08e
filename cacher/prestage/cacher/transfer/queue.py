"""Who fetches what next. Every decision is taken here, under one lock and without I/O; the engine's threads act on them.

Order: by priority; of what pods wait for the one with least left, else first come first served; inside a job paused pieces first,
then the files in their order. A lane (one origin server) has a connection limit that its answers move. When nothing is left to
begin, idle connections hedge the stragglers. A more urgent job makes less urgent attempts give way: they park their piece at its
cursor and lose nothing.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Unavailable
from prestage.cacher.transfer.flight import Flight, Transfer
from prestage.cacher.transfer.job import Job
from prestage.cacher.transfer.limits import LaneLimit, Limits, Priority, retry_delay_s
from prestage.cacher.transfer.ports import Cancelled, PieceRecord, Retry, Stream

_HEDGE_LOOK_S = 0.5
_AHEAD_BYTES_PER_S = 100e6
"""Of what pods wait for, each second of waiting counts as so many bytes less: no large one waits for ever behind small ones."""
LANES_REMEMBERED = 64


class Outcome(Enum):
    """How an attempt ended."""

    WHOLE = "whole"
    LEFT = "left"
    """Overtaken, pre-empted or cancelled: nobody's fault."""
    FAILED = "failed"
    NO_RANGES = "no-ranges"


@dataclass(slots=True, eq=False)
class Lane:
    """The connections to one origin server."""

    limit: LaneLimit
    active: int = 0
    bytes_moved: int = 0
    """Since the last tick."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One connection at work on a flight. A transfer without ranges has one attempt and a flight per piece in turn."""

    job: Job
    transfer: Transfer
    flight: Flight
    lane: Lane
    ranged: bool = True
    """False: it reads the file from its start, piece after piece."""
    stream: Stream | None = None
    leaving: threading.Event = field(default_factory=threading.Event)

    @property
    def flight_is_shared(self) -> bool:
        """Two connections race on it."""
        return self.flight.attempts > 1

    def leaves(self) -> bool:
        """Asked to end at the next buffer."""
        return self.leaving.is_set()

    def ask_to_leave(self) -> None:
        """End it soon; a blocked read ends now."""
        self.leaving.set()
        if self.stream is not None:
            self.stream.abort()


@dataclass(slots=True)
class WorkQueue:
    """The jobs, the lanes, the attempts. Every public method takes the lock itself."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)
    changed: threading.Condition = field(default_factory=threading.Condition)
    jobs: list[Job] = field(default_factory=list)
    closed: bool = False
    _lanes: dict[str, Lane] = field(default_factory=dict)
    _attempts: set[Attempt] = field(default_factory=set)
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    def add(self, job: Job) -> None:
        """Take a job in; the less urgent give way to it. After `close` it fails at once."""
        with self.changed:
            job.added_at = self.clock()
            self.jobs.append(job)
            self._sort()
            for transfer in job.waiting:
                self._lane(transfer)  # `wanted_threads` counts them
            if self.closed:
                self._fail(job, Cancelled())
            else:
                self._make_room(job)
            self.changed.notify_all()

    def _sort(self) -> None:
        now = self.clock()
        self.jobs.sort(key=lambda job: self._turn(job, now))

    def _turn(self, job: Job, now: float) -> tuple[Priority, float]:
        """The shortest first is what makes pods wait least in all; who stages ahead has an order by its deadlines already."""
        if job.priority is not Priority.WAITING_POD:
            return job.priority, 0.0
        return job.priority, job.left * PIECE_BYTES - (now - job.added_at) * _AHEAD_BYTES_PER_S

    def _make_room(self, job: Job) -> None:
        """Less urgent attempts give way where `job` has work but its lane, or the engine's threads, have no connection free."""
        staying = [attempt for attempt in self._attempts if not attempt.leaves()]
        now = self.clock()
        own = self._turn(job, now)
        turns = {id(other): self._turn(other, now) for other in self.jobs}
        weaker = [attempt for attempt in staying if turns.get(id(attempt.job), own) > own]
        weaker.sort(key=lambda attempt: turns[id(attempt.job)], reverse=True)
        if not weaker or job.stopped.is_set():
            return
        idle = self.limits.connections_max - len(staying)
        for lane, pieces in self._ready(job).items():
            wanted = min(pieces, lane.limit.current)
            taken = sum(attempt.lane is lane for attempt in staying)
            in_lane = [attempt for attempt in weaker if attempt.lane is lane]
            giving = in_lane[: max(0, wanted - (lane.limit.current - taken))]
            others = [attempt for attempt in weaker if attempt not in giving]
            giving += others[: max(0, wanted - idle - len(giving))]
            for attempt in giving:
                attempt.ask_to_leave()
                weaker.remove(attempt)
            idle += len(giving) - wanted

    def _ready(self, job: Job) -> Counter[Lane]:
        """Pieces of `job` that could be at work now, by lane."""
        now, ready = self.clock(), Counter[Lane]()
        for transfer in job.waiting:
            if transfer.has_ranges:
                ready[self._lane(transfer)] += len(transfer.pending)
            elif not transfer.flying and transfer.patience.not_before <= now:
                ready[self._lane(transfer)] += 1
        for flight in job.parked:
            ready[self._lane(flight.transfer)] += flight.patience.not_before <= now
        return ready

    def urge(self, job: Job, priority: Priority) -> None:
        """Make a job at least so urgent."""
        with self.changed:
            if job not in self.jobs or priority >= job.priority:
                return
            job.priority = priority
            self._sort()
            self._make_room(job)
            self.changed.notify_all()

    def remove(self, job: Job) -> None:
        """Forget a job that has ended."""
        with self.changed:
            self.jobs.remove(job)
            self._forget_lanes()

    def _forget_lanes(self) -> None:
        """What a server was found to bear is remembered for the next job, but not of every server there ever was."""
        if len(self._lanes) <= LANES_REMEMBERED:
            return
        wanted = {transfer.source.lane for job in self.jobs for transfer in job.transfers}
        for name in [name for name, lane in self._lanes.items() if name not in wanted and not lane.active]:
            if len(self._lanes) <= LANES_REMEMBERED:
                return
            del self._lanes[name]

    def next(self) -> Attempt | None:
        """The next thing to fetch; blocks until there is one. None: the engine closes."""
        with self.changed:
            while not self.closed:
                attempt = self._begin() or self._hedge()
                if attempt is not None:
                    self._attempts.add(attempt)
                    attempt.lane.active += 1
                    attempt.job.active += 1
                    attempt.flight.attempts += 1
                    attempt.transfer.flying.add(attempt.flight)
                    return attempt
                self.changed.wait(self._pause_s())
            return None

    def _begin(self) -> Attempt | None:
        now = self.clock()
        for job in self.jobs:
            if job.stopped.is_set():
                continue
            for flight in job.parked:
                lane = self._lane(flight.transfer)
                if flight.patience.not_before <= now and lane.active < lane.limit.current:
                    job.parked.remove(flight)
                    flight.began, flight.began_at = now, flight.cursor
                    return Attempt(job, flight.transfer, flight, lane)
            if (found := self._first_piece(job, now)) is not None:
                return found
        return None

    def _first_piece(self, job: Job, now: float) -> Attempt | None:
        full: set[str] = set()
        for transfer in job.waiting:
            if transfer.source.lane in full:
                if len(self._lanes) == 1:
                    return None
                continue
            lane = self._lane(transfer)
            if lane.active >= lane.limit.current:
                full.add(transfer.source.lane)
                continue
            if not transfer.has_ranges and (transfer.flying or transfer.patience.not_before > now):
                continue
            piece = transfer.pending[0]
            if transfer.has_ranges:
                transfer.pending.popleft()
                if not transfer.pending:
                    job.waiting.remove(transfer)
            return Attempt(job, transfer, transfer.flight(piece), lane, transfer.has_ranges)
        return None

    def _hedge(self) -> Attempt | None:
        if not self._rates:
            return None
        now, median = self.clock(), statistics.median(self._rates)
        worst: Attempt | None = None
        for attempt in self._attempts:
            flight, lane = attempt.flight, attempt.lane
            if flight.is_whole or attempt.flight_is_shared or not attempt.ranged or attempt.leaves():
                continue
            if flight.patience.not_before > now or not attempt.transfer.has_ranges:
                continue
            if lane.active >= lane.limit.current or now - flight.began < self.limits.hedge_after_s:
                continue
            if flight.bytes_per_s(now) * self.limits.hedge_slower < median and (
                worst is None or flight.cursor - flight.stop < worst.flight.cursor - worst.flight.stop
            ):
                worst = attempt
        if worst is None:
            return None
        return Attempt(worst.job, worst.transfer, worst.flight, worst.lane)

    def _pause_s(self) -> float | None:
        """Seconds until the clock alone may bring work. What is due already waits for a connection: `end` and `tick` tell."""
        now = self.clock()
        dates = [f.patience.not_before for job in self.jobs for f in job.parked]
        dates += [t.patience.not_before for job in self.jobs for t in job.waiting if not t.has_ranges]
        waits = [date - now for date in dates if date > now]
        if self._attempts:
            waits.append(_HEDGE_LOOK_S)
        return min(waits, default=None)

    def moved(self, attempt: Attempt, size_bytes: int) -> None:
        """Count bytes that were written."""
        with self.changed:
            attempt.lane.bytes_moved += size_bytes
            attempt.job.bytes_by_source[attempt.transfer.source.name] += size_bytes

    def received(self, attempt: Attempt, record: PieceRecord) -> None:
        """A piece is whole: its record waits for the journal, other connections on it may go."""
        with self.changed:
            now, flight = self.clock(), attempt.flight
            self._rates.append(max(flight.bytes_per_s(now), 1.0))
            attempt.job.unsaved.append((attempt.transfer, record))
            attempt.job.unsaved_bytes += record.size_bytes
            if not attempt.ranged:
                attempt.transfer.pending.remove(record.piece)
                attempt.transfer.patience.progressed()
                if not attempt.transfer.pending:
                    attempt.job.waiting.remove(attempt.transfer)
            for other in self._attempts:
                if other.flight is flight and other is not attempt:
                    other.ask_to_leave()
        if attempt.transfer.follower is not None:
            attempt.transfer.follower.advance(record.piece)

    def end(self, attempt: Attempt, outcome: Outcome, retry: Retry | None = None) -> None:
        """An attempt is over; its flight goes on, waits, or is lost with its job."""
        with self.changed:
            job, transfer, flight = attempt.job, attempt.transfer, attempt.flight
            self._attempts.discard(attempt)
            attempt.lane.active -= 1
            job.active -= 1
            flight.attempts -= 1
            if retry is not None:
                self._count_failure(attempt, retry)
            if outcome is Outcome.NO_RANGES:
                transfer.has_ranges = False
            if flight.attempts == 0:
                transfer.flying.discard(flight)
                if not flight.is_whole:
                    job.parked.append(flight)
            if not transfer.has_ranges:
                self._give_back(job, transfer)
            self.changed.notify_all()

    def _give_back(self, job: Job, transfer: Transfer) -> None:
        """Without ranges no piece is fetched alone: what is parked waits for the stream that reads the file from its start."""
        begun = {flight.piece: flight for flight in job.parked if flight.transfer is transfer}
        if not begun:
            return
        job.parked = [flight for flight in job.parked if flight.transfer is not transfer]
        transfer.begun |= begun
        transfer.pending = deque(sorted({*transfer.pending, *begun}))
        if transfer not in job.waiting:
            job.waiting.append(transfer)

    def _count_failure(self, attempt: Attempt, retry: Retry) -> None:
        now, job = self.clock(), attempt.job
        patience = attempt.flight.patience if attempt.ranged else attempt.transfer.patience
        delay_s = retry_delay_s(self.limits, patience.failures, retry.after_s, self.rng)
        job.retries += 1
        job.last_trouble = retry.why
        if retry.congested:
            attempt.lane.limit.congested(now)
        if attempt.flight.attempts:
            # The other connection is still at work on this piece: it has not failed, it only gets no third one at once.
            patience.not_before = now + max(delay_s, self.limits.hedge_after_s)
            return
        patience.failed(now, delay_s)
        if patience.is_over(self.limits, now):
            self._fail(
                job,
                Unavailable(
                    f"{attempt.transfer.path}: gave up after {patience.failures} failures in a row, the last: {retry.why}",
                    hint="what was fetched is kept; run the same command again to go on",
                ),
            )

    def fail(self, job: Job, error: BaseException) -> None:
        """End a job; the first error is the one that is told."""
        with self.changed:
            self._fail(job, error)

    def _fail(self, job: Job, error: BaseException) -> None:
        if job.error is None:
            job.error = error
        job.stopped.set()
        for attempt in self._attempts:
            if attempt.job is job:
                attempt.ask_to_leave()
        self.changed.notify_all()

    def close(self) -> None:
        """Fail every job, now and later, and send everybody home."""
        with self.changed:
            self.closed = True
            for job in self.jobs:
                self._fail(job, Cancelled())
            self.changed.notify_all()

    def tick(self, elapsed_s: float) -> None:
        """A second has passed: let the lanes learn from it, and who became ready again get room."""
        with self.changed:
            self._sort()
            for job in self.jobs:
                self._make_room(job)
            waiting = any(job.waiting or job.parked for job in self.jobs if not job.stopped.is_set())
            for lane in self._lanes.values():
                rate, lane.bytes_moved = lane.bytes_moved / elapsed_s, 0
                lane.limit.observe(self.clock(), rate, saturated=waiting and lane.active >= lane.limit.current)
            self.changed.notify_all()

    def wanted_threads(self) -> int:
        """Threads that could work right now."""
        with self.changed:
            return min(self.limits.connections_max, sum(lane.limit.current for lane in self._lanes.values()))

    def unsaved(self, *, due: bool) -> list[tuple[Job, Transfer, list[PieceRecord]]]:
        """Records for the journal: all of them when `due`, else only of jobs with too many or with nothing else to do."""
        batches: dict[tuple[int, int], tuple[Job, Transfer, list[PieceRecord]]] = {}
        with self.changed:
            for job in self.jobs:
                at_its_end = job.active == 0 and (job.stopped.is_set() or not (job.waiting or job.parked))
                if not (due or at_its_end or job.unsaved_bytes >= self.limits.journal_bytes):
                    continue
                for transfer, record in job.unsaved:
                    batches.setdefault((id(job), id(transfer)), (job, transfer, []))[2].append(record)
                job.journaling += len(job.unsaved)
                job.unsaved, job.unsaved_bytes = [], 0
        return list(batches.values())

    def journaled(self, job: Job, count: int) -> None:
        """So many records of `job` are durable (or lost with it, when it failed)."""
        with self.changed:
            job.left -= count
            job.journaling -= count
            self.changed.notify_all()

    def _lane(self, transfer: Transfer) -> Lane:
        name = transfer.source.lane
        lane = self._lanes.pop(name, None) or Lane(LaneLimit(self.limits))
        self._lanes[name] = lane  # the last one used is the last one forgotten
        return lane
