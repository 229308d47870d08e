"""The engine: worker threads that receive into their own aligned buffer and hand it to the sink, and one that journals.

    source --recv_into--> buffer (2 MiB, aligned) --pwrite(O_DIRECT), BLAKE3, xxh3, CRC--> cursor --1 s--> journal

Threads and blocking sockets: recv, hashing and pwrite release the GIL, and what Python does per MiB is some microseconds. No
body byte becomes a Python object. What is fetched next is the queue's decision; what went wrong is judged by the source.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Unavailable
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.flight import BLOCK_BYTES, Transfer
from prestage.cacher.transfer.job import Job, Progress
from prestage.cacher.transfer.limits import Limits, Priority
from prestage.cacher.transfer.ports import Cancelled, Fatal, NoRanges, PieceRecord, Retry, SourceError
from prestage.cacher.transfer.queue import Attempt, Outcome, WorkQueue
from prestage.cacher.transfer.rate import RateLimit
from prestage.cacher.transfer.threads import start

PROGRESS_S = 0.2
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_IOPRIO_IDLE = 3 << 13


class Engine:
    """Moves files. Thread-safe: many callers may `fetch` at once and share its connections and memory. Close it.

    `rate` is the cap over all of them, the one of `limits` where none is given; `rate.set_rate` changes it at run time.
    """

    def __init__(self, limits: Limits | None = None, rate: RateLimit | None = None) -> None:
        self.limits = limits or Limits()
        self.rate = rate or RateLimit(self.limits.rate_bytes_per_s)
        self._queue = WorkQueue(self.limits)
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._keeper = threading.Thread(target=self._keep_journal, name="prestage-journal", daemon=True)
        self._keeper_started = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch(
        self,
        transfers: Sequence[Transfer],
        *,
        priority: Priority = Priority.DECLARED,
        on_start: Callable[[Job], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Job:
        """Move every missing piece of `transfers` and journal it; blocks. `on_start` and `on_progress` are called in this
        thread; `on_start` gets the job, for `urge`.

        Durable on return. On any error and on cancellation what was received is journaled before this raises: the same call
        with the same sinks goes on from there.

        Raises:
            Cancelled: `cancel` was set, or the engine was closed.
            Changed: a file is not the pinned version any more.
            PrestageError: denied, gone, disk full, or the origin failed beyond the retry rules.
        """
        job = Job(list(transfers), priority)
        began = time.monotonic()
        self._queue.add(job)
        try:
            self._start()
            if on_start is not None:
                on_start(job)
            while not self._wait(job):
                if cancel is not None and cancel.is_set():
                    self._queue.fail(job, Cancelled())
                elif on_progress is not None:
                    on_progress(_progress(job, time.monotonic() - began))
        except BaseException as exc:
            self._queue.fail(job, exc)
            while not self._wait(job):
                pass
            raise
        finally:
            self._queue.remove(job)
        if job.error is not None:
            raise job.error
        if on_progress is not None:
            on_progress(_progress(job, time.monotonic() - began))
        return job

    def urge(self, job: Job, priority: Priority) -> None:
        """Make a running job at least so urgent; the less urgent give way at once. Without effect once it has ended."""
        self._queue.urge(job, priority)
        self._staff()

    def close(self) -> None:
        """End every thread; jobs still running fail, as do those that come later."""
        self._queue.close()
        with self._lock:
            threads = [*self._workers, *([self._keeper] if self._keeper_started else [])]
        for thread in threads:
            thread.join()

    def _start(self) -> None:
        with self._lock:
            if not self._keeper_started and not self._queue.closed:
                start(self._keeper)
                self._keeper_started = True
        self._staff()

    def _staff(self) -> None:
        """Start the threads that are wanted and missing. With one at least the engine goes on when the system gives no more."""
        with self._lock:
            while len(self._workers) < self._queue.wanted_threads() and not self._queue.closed:
                name = f"prestage-fetch-{len(self._workers)}"
                try:
                    buffer = aligned_buffer(self.limits.buffer_bytes)
                    worker = threading.Thread(target=self._work, args=(buffer,), name=name, daemon=True)
                    start(worker)
                except Unavailable:
                    if not self._workers:
                        raise
                    return
                self._workers.append(worker)

    def _wait(self, job: Job) -> bool:
        with self._queue.changed:
            self._queue.changed.wait_for(lambda: job.has_ended, PROGRESS_S)
            return job.has_ended

    def _work(self, buffer: memoryview) -> None:
        _step_back(self.limits.niceness)
        while (attempt := self._queue.next()) is not None:
            outcome, retry = self._try(attempt, buffer)
            self._queue.end(attempt, outcome, retry)

    def _try(self, attempt: Attempt, buffer: memoryview) -> tuple[Outcome, Retry | None]:
        try:
            receive = self._receive if attempt.ranged else self._receive_without_ranges
            return receive(attempt, buffer), None
        except NoRanges as exc:
            if attempt.ranged:
                return Outcome.NO_RANGES, None
            return Outcome.FAILED, Retry(str(exc))  # not even the whole file: that must spend patience
        except Retry as exc:
            if not attempt.leaves():
                return Outcome.FAILED, exc
        except Fatal as exc:
            self._queue.fail(attempt.job, exc.error)
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: the job's caller gets it
            self._queue.fail(attempt.job, exc)
        finally:
            if attempt.stream is not None:
                with suppress(OSError):
                    attempt.stream.close()
        return Outcome.LEFT, None

    def _receive(self, attempt: Attempt, buffer: memoryview) -> Outcome:
        flight = attempt.flight
        offset = flight.cursor
        if offset == flight.stop:
            return Outcome.LEFT
        attempt.stream = attempt.transfer.source.open(offset, flight.stop, attempt.leaving)
        while offset < flight.stop:
            view = self._fill(attempt, offset, flight.stop, buffer)
            if view is None:
                return Outcome.LEFT
            moved = flight.deliver(offset, view)
            self._queue.moved(attempt, moved)
            offset += len(view)
            if moved and offset == flight.stop:
                self._queue.received(attempt, self._proved(attempt))
                return Outcome.WHOLE
            if offset % BLOCK_BYTES and offset < flight.stop:
                raise Retry("the body ended inside a block")
        return Outcome.LEFT

    def _proved(self, attempt: Attempt) -> PieceRecord:
        """The record of a piece that is whole.

        Raises:
            Retry, Fatal: it is not what it should be; its flight is back at its start.
        """
        flight, proof = attempt.flight, attempt.transfer.proof
        record = flight.record()
        if proof is not None:
            try:
                proof.check(record)
            except SourceError:
                flight.restart()
                self._queue.moved(attempt, -record.size_bytes)
                raise
        return record

    def _receive_without_ranges(self, attempt: Attempt, buffer: memoryview) -> Outcome:
        transfer, size_bytes = attempt.transfer, attempt.transfer.sink.size_bytes
        attempt.stream = transfer.source.open(0, size_bytes, attempt.leaving)
        wanted, offset = set(transfer.pending), 0
        while offset < size_bytes and wanted:
            piece = offset // PIECE_BYTES
            view = self._fill(attempt, offset, min((piece + 1) * PIECE_BYTES, size_bytes), buffer)
            if view is None:
                return Outcome.LEFT
            if piece in wanted:
                if attempt.flight.piece != piece:
                    self._next_flight(attempt, piece)
                self._queue.moved(attempt, attempt.flight.deliver(offset, view))
                if attempt.flight.is_whole:
                    self._queue.received(attempt, self._proved(attempt))
                    wanted.discard(piece)
            offset += len(view)
            if offset % BLOCK_BYTES and offset < size_bytes:
                raise Retry("the body ended inside a block")
        return Outcome.WHOLE

    def _next_flight(self, attempt: Attempt, piece: int) -> None:
        with self._queue.changed:
            attempt.transfer.flying.discard(attempt.flight)
            attempt.flight = attempt.transfer.flight(piece)
            attempt.flight.attempts = 1
            attempt.transfer.flying.add(attempt.flight)

    def _fill(self, attempt: Attempt, offset: int, stop: int, buffer: memoryview) -> memoryview | None:
        """The next bytes of the stream, up to a boundary of portions; None when asked to leave.

        Raises:
            Retry: the stream ended before `stop`.
        """
        portion = self.limits.portion_bytes(self.rate.current())
        wanted = min(portion - offset % portion, stop - offset)
        self.rate.take(wanted, attempt.leaving)
        if attempt.leaves() or attempt.stream is None:
            return None
        count = attempt.stream.readinto(buffer[:wanted])
        if attempt.leaves() and not count:
            return None
        if not count:
            raise Retry(f"the body ended {stop - offset} bytes early")
        return buffer[:count]

    def _keep_journal(self) -> None:
        last_tick = last_flush = time.monotonic()
        while True:
            now = time.monotonic()
            due = now - last_flush >= self.limits.journal_interval_s
            if due:
                last_flush = now
            for job, transfer, records in self._queue.unsaved(due=due):
                self._journal(job, transfer, records)
            if now - last_tick >= 1.0:
                self._queue.tick(now - last_tick)
                with suppress(Unavailable):  # no thread for now: a fetch that needs one is told
                    self._staff()
                last_tick = now
            with self._queue.changed:
                if self._queue.closed and not self._queue.jobs:
                    return
                self._queue.changed.wait(min(self.limits.journal_interval_s, 0.2))

    def _journal(self, job: Job, transfer: Transfer, records: list[PieceRecord]) -> None:
        try:
            transfer.sink.journal(records)
        except Exception as exc:  # noqa: BLE001 - the edge of a thread: the job's caller gets it
            self._queue.fail(job, exc)
        self._queue.journaled(job, len(records))


def _progress(job: Job, elapsed_s: float) -> Progress:
    done = job.bytes_by_source.total()
    source = max(job.bytes_by_source, key=lambda name: job.bytes_by_source[name], default="")
    return Progress(done, job.bytes_total, done / max(elapsed_s, 1e-3), job.retries, source)


def _step_back(niceness: int) -> None:
    """Give way to everybody else: nice for the processor, the idle class for the disk. This thread only."""
    if niceness <= 0:
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    if _IOPRIO_SET is not None:
        ctypes.CDLL(None).syscall(_IOPRIO_SET, 1, thread, _IOPRIO_IDLE)
