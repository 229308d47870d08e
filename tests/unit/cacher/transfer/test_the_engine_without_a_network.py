"""The engine against simulated sources: races that a server cannot time, and thousands of faults by the dice of a seed."""

from __future__ import annotations

import os
import random
import threading
import time
from functools import cache

import pytest
from transfers import MemorySink
from transfers.simulated import Dice, Range, Scripted, StrictSink

from prestage.cacher.digests import CHUNK_BYTES, PIECE_BYTES, chunk_sum, piece_hasher, piece_span
from prestage.cacher.errors import Full, Unavailable
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Flight, Transfer
from prestage.cacher.transfer.limits import Limits, Priority
from prestage.cacher.transfer.ports import Cancelled, Fatal, NoRanges, PieceRecord, Retry, Source, Stream
from prestage.cacher.transfer.queue import Attempt, WorkQueue

pytestmark = pytest.mark.timeout(60)

FAST = {"backoff_base_s": 0.005, "backoff_cap_s": 0.02, "journal_interval_s": 0.02, "hedge_after_s": 0.02}


def limits(connections: int = 2, **settings: float) -> Limits:
    merged = {**FAST, **settings}
    return Limits(connections_start=connections, connections_max=connections, **merged)  # type: ignore[arg-type] # ints and floats


@cache
def content(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


def moves(source: Source, sink: MemorySink) -> Transfer:
    return Transfer("model.bin", source, sink)


def expected(size_bytes: int, piece: int) -> tuple[bytes, bytes]:
    start, stop = piece_span(size_bytes, piece)
    data = content(size_bytes)[start:stop]
    hasher = piece_hasher()
    hasher.update(data)
    return hasher.digest(), b"".join(chunk_sum(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))


def assert_right(sink: MemorySink) -> None:
    assert sink.is_whole
    assert sink.data == content(sink.size_bytes)
    assert sink.written == sink.size_bytes
    for piece, record in sink.durable.items():
        assert (record.digest, record.chunk_sums) == expected(sink.size_bytes, piece)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_dice_bring_every_byte_is_right_and_written_once(seed: int) -> None:
    rng = random.Random(seed)
    edges = (1, 4096, CHUNK_BYTES, PIECE_BYTES)
    sizes = [2 * PIECE_BYTES + rng.choice(edges) + rng.randint(-1, 1), *(edge + rng.randint(-1, 1) for edge in edges), 0]
    sinks = [StrictSink(size) for size in sizes]
    sources = [Dice(content(size), random.Random(seed + size), f"lane {size % 2}", loses_ranges=seed % 2 == 0) for size in sizes]
    settings = Limits(connections_start=3, connections_max=8, buffer_bytes=rng.choice([65536, 1 << 20]), attempts=60, **FAST)  # type: ignore[arg-type] # mixed numbers
    with Engine(settings) as engine:
        resumed = 0
        while True:
            transfers = [moves(source, sink) for source, sink in zip(sources, sinks, strict=True)]
            cancel = threading.Event()
            timer = threading.Timer(rng.uniform(0.01, 0.15), cancel.set)
            if resumed < 2:
                timer.start()
            try:
                before = sum(sink.written for sink in sinks)
                job = engine.fetch(transfers, cancel=cancel, priority=rng.choice(list(Priority)))
                assert job.bytes_by_source.total() == sum(sink.written for sink in sinks) - before
                break
            except Cancelled:
                resumed += 1
                sinks = [after_a_stop(sink) for sink in sinks]
            finally:
                timer.cancel()
    assert job.bytes_total == job.bytes_by_source.total()
    for sink in sinks:
        assert sink.is_whole
        assert sink.data == content(sink.size_bytes)
        assert {piece: (r.digest, r.chunk_sums) for piece, r in sink.durable.items()} == {
            piece: expected(sink.size_bytes, piece) for piece in sink.durable
        }


def after_a_stop(sink: StrictSink) -> StrictSink:
    """What a new run finds: the pieces that are journaled."""
    fresh = StrictSink(sink.size_bytes)
    for piece, record in sink.durable.items():
        start, stop = piece_span(sink.size_bytes, piece)
        fresh.write(memoryview(sink.data)[start:stop], start)
        fresh.durable[piece] = record
    return fresh


def test_a_piece_that_two_connections_bring_is_journaled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * PIECE_BYTES
    half, done = threading.Event(), threading.Event()
    plain_moved, plain_received = WorkQueue.moved, WorkQueue.received

    def moved(self: WorkQueue, attempt: Attempt, size_bytes: int) -> None:
        plain_moved(self, attempt, size_bytes)
        if attempt.flight.piece == 1 and not half.is_set():
            half.set()
            assert done.wait(10)  # this thread sleeps here while the hedge brings the rest

    def received(self: WorkQueue, attempt: Attempt, record: PieceRecord) -> None:
        plain_received(self, attempt, record)
        if record.piece == 1:
            done.set()

    monkeypatch.setattr(WorkQueue, "moved", moved)
    monkeypatch.setattr(WorkQueue, "received", received)
    source = Scripted(lambda start, stop, nth: Range(content(size), start, stop))
    sink = StrictSink(size)
    with Engine(limits()) as engine:
        # The straggler looks slow: its first half has been there for a while.
        monkeypatch.setattr(Flight, "bytes_per_s", lambda flight, now: 1.0 if flight.piece else 1e9)
        job = engine.fetch([moves(source, sink)])
    assert_right(sink)
    assert job.left == 0
    assert len([span for span in source.opened if span[1] == size]) == 2


def test_bytes_that_could_not_be_written_are_not_hashed() -> None:
    class OnceFull(MemorySink):
        def write(self, buffer: memoryview, offset: int) -> None:
            if offset and not self.journal_calls:
                self.journal_calls.append([])
                raise Full("no room")
            super().write(buffer, offset)

    sink = OnceFull(3 * 4096)
    flight = Flight(moves(Scripted(lambda *_: Range(b"", 0, 0)), sink), 0)
    data = memoryview(content(3 * 4096))
    assert flight.deliver(0, data[:4096]) == 4096
    with pytest.raises(Full):
        flight.deliver(4096, data[4096:])
    assert flight.deliver(4096, data[4096:]) == 8192
    assert flight.record().digest == expected(3 * 4096, 0)[0]


def test_what_is_checked_elsewhere_is_moved_without_being_hashed() -> None:
    size = PIECE_BYTES + 5
    source, sink = Scripted(lambda start, stop, _nth: Range(content(size), start, stop)), MemorySink(size)
    with Engine(limits()) as engine:
        engine.fetch([Transfer("model.bin", source, sink, is_hashed=False)])
    assert sink.data == content(size)
    assert {(record.digest, record.chunk_sums) for record in sink.durable.values()} == {(piece_hasher().digest(), b"")}


def test_hedges_that_fail_do_not_end_a_piece_that_is_on_its_way() -> None:
    size = 2 * PIECE_BYTES
    released = threading.Event()

    def script(start: int, stop: int, nth: int) -> Stream:
        if start < PIECE_BYTES:
            return Range(content(size), start, stop)
        if len([span for span in source.opened if span[1] == size]) > 1:
            threading.Timer(0.3, released.set).start()
            raise Retry("503: one connection is enough")
        return Range(content(size), start, stop, before=lambda stream: released.wait(30))

    source, sink = Scripted(script), StrictSink(size)
    with Engine(limits(attempts=3)) as engine:
        job = engine.fetch([moves(source, sink)])
    assert_right(sink)
    assert 1 <= job.retries < 40


def test_a_source_that_serves_neither_ranges_nor_the_whole_ends_the_job() -> None:
    def script(start: int, stop: int, nth: int) -> Stream:
        raise NoRanges("416 whatever is asked")

    source = Scripted(script)
    with Engine(limits()) as engine, pytest.raises(Unavailable, match="gave up after 8 failures"):
        engine.fetch([moves(source, StrictSink(PIECE_BYTES))])
    assert len(source.opened) == 9


def test_a_closed_engine_refuses_at_once() -> None:
    engine = Engine(limits())
    engine.close()
    source = Scripted(lambda start, stop, nth: Range(content(100), start, stop))
    with pytest.raises(Cancelled):
        engine.fetch([moves(source, StrictSink(100))])
    assert source.opened == []


def test_closing_ends_a_fetch_in_another_thread() -> None:
    engine, ended = Engine(limits()), list[str]()
    source = Scripted(lambda start, stop, nth: Range(content(100), start, stop, before=lambda stream: stream.ended.wait(30)))

    def fetch() -> None:
        with pytest.raises(Cancelled):
            engine.fetch([moves(source, StrictSink(100))])
        ended.append("cancelled")

    thread = threading.Thread(target=fetch)
    thread.start()
    while not source.opened:
        time.sleep(0.001)
    began = time.monotonic()
    engine.close()
    thread.join()
    assert ended == ["cancelled"]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("granted", [0, 1])
def test_threads_that_the_system_refuses_are_done_without(granted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, started = threading.Thread.start, list[str]()

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("prestage-fetch"):
            if len(started) >= granted:
                raise RuntimeError("can't start new thread")
            started.append(thread.name)
        plain(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    sink = StrictSink(2 * PIECE_BYTES)
    source = Scripted(lambda start, stop, nth: Range(content(sink.size_bytes), start, stop))
    with Engine(limits(4)) as engine:
        if granted:
            engine.fetch([moves(source, sink)])
            assert_right(sink)
        else:
            with pytest.raises(Unavailable, match="gives no thread"):
                engine.fetch([moves(source, sink)])


@pytest.mark.parametrize("refused_first", [False, True], ids=["comes later", "comes back from a refusal"])
@pytest.mark.parametrize("lane", ["same", "other"])
def test_a_waiting_pod_gets_its_connection_whatever_is_taken(lane: str, refused_first: bool) -> None:
    size, released = 2 * PIECE_BYTES, threading.Event()

    def blocked(start: int, stop: int, nth: int) -> Stream:
        return Range(content(size), start, stop, before=lambda stream: _until(stream.ended, released))

    def refuses(start: int, stop: int, nth: int) -> Stream:
        if refused_first and not nth:
            raise Retry("503", after_s=0.2)
        return Range(content(100), start, stop)

    weak, weak_sink = Scripted(blocked, "same"), StrictSink(size)
    urgent, urgent_sink = Scripted(refuses, lane), StrictSink(100)
    with Engine(limits()) as engine:
        background = threading.Thread(
            target=engine.fetch, args=([moves(weak, weak_sink)],), kwargs={"priority": Priority.FOLLOW_ON}
        )
        background.start()
        while len(weak.opened) < 2:
            time.sleep(0.001)
        began = time.monotonic()
        engine.fetch([moves(urgent, urgent_sink)], priority=Priority.WAITING_POD)
        assert time.monotonic() - began < 5
        released.set()
        background.join()
    assert_right(urgent_sink)
    assert_right(weak_sink)


def _until(*events: threading.Event) -> None:
    while not any(event.is_set() for event in events):
        time.sleep(0.002)


def test_a_niced_engine_gives_way_with_processor_and_disk() -> None:
    seen = list[int]()

    def script(start: int, stop: int, nth: int) -> Stream:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return Range(content(100), start, stop)

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with Engine(limits(niceness=7)) as engine:
        engine.fetch([moves(Scripted(script), StrictSink(100))])
    assert seen == [7]
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


class OnceWrong:
    """Refuses each piece the first time it comes whole."""

    def __init__(self, last: Exception | None = None) -> None:
        self.refused: list[int] = []
        self.last = last

    def check(self, record: PieceRecord) -> None:
        if record.piece not in self.refused:
            self.refused.append(record.piece)
            raise self.last or Retry("not what was asked for", after_s=0.0)


@pytest.mark.parametrize("whole_only", [False, True])
def test_a_piece_that_its_proof_refuses_is_fetched_again_from_its_start(whole_only: bool) -> None:
    size = 2 * PIECE_BYTES + 4097
    sink, proof = MemorySink(size), OnceWrong()
    source = Dice(content(size), random.Random(1), faults=0, whole_only=whole_only)
    with Engine(limits()) as engine:
        job = engine.fetch([Transfer("model.bin", source, sink, proof=proof)])
    assert sink.data == content(size)
    assert sorted(proof.refused) == [0, 1, 2]
    assert {piece: (record.digest, record.chunk_sums) for piece, record in sink.durable.items()} == {
        piece: expected(size, piece) for piece in range(3)
    }
    assert job.bytes_by_source.total() == size
    assert job.retries == 3


def test_a_proof_that_gives_up_ends_the_job_and_nothing_is_journaled() -> None:
    sink, source = MemorySink(5000), Dice(content(5000), random.Random(1), faults=0)
    transfer = Transfer("model.bin", source, sink, proof=OnceWrong(Fatal(Full("nobody is left"))))
    with Engine(limits()) as engine, pytest.raises(Full, match="nobody"):
        engine.fetch([transfer])
    assert not sink.durable


def test_threads_that_the_system_refuses_once_are_missed_by_no_later_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    start, ticked = threading.Thread.start, threading.Event()
    tick = WorkQueue.tick

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("prestage-fetch"):
            raise RuntimeError("can't start new thread")
        start(thread)

    def told(queue: WorkQueue, elapsed_s: float) -> None:
        tick(queue, elapsed_s)
        if ticked.is_set():
            monkeypatch.setattr(threading.Thread, "start", start)
        ticked.set()

    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr(WorkQueue, "tick", told)
    source, size = Scripted(lambda first, stop, nth: Range(content(10), first, stop)), 10
    with Engine(limits()) as engine:
        with pytest.raises(Unavailable, match="gives no thread"):
            engine.fetch([moves(source, StrictSink(size))])
        assert ticked.wait(10)
        sink = StrictSink(size)
        while True:
            try:
                engine.fetch([moves(source, sink)])
                break
            except Unavailable:
                time.sleep(0.05)
    assert_right(sink)
