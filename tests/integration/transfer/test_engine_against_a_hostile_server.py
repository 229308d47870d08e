"""The engine, the HTTP client and the source together against a server that misbehaves on demand."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from functools import cache

import pytest
from transfers import MemorySink, transfer_of

from prestage.cacher.digests import PIECE_BYTES, chunk_sum, piece_hasher, piece_span
from prestage.cacher.errors import Full, Unavailable
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Limits, Priority
from prestage.cacher.transfer.ports import Cancelled, Changed
from prestage.cacher.transfer.rate import RateLimit
from servers import faults
from servers.answers import Request, Served
from servers.hostile import Hostile

SIZE = 3 * PIECE_BYTES + 123_457
QUICK = Limits(connections_start=4, connections_max=4, backoff_base_s=0.01, backoff_cap_s=0.05, journal_interval_s=0.05)


@cache
def content(size_bytes: int = SIZE) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile({"/f": content()}) as hostile:
        yield hostile


@pytest.fixture
def client() -> Iterator[HttpClient]:
    http = HttpClient(NetConfig(idle_timeout_s=0.5, connect_timeout_s=2))
    yield http
    http.close()


def fetch(server: Hostile, client: HttpClient, limits: Limits = QUICK, sink: MemorySink | None = None) -> MemorySink:
    transfer, sink = transfer_of(server.url("/f"), SIZE, client=client, sink=sink)
    with Engine(limits) as engine:
        engine.fetch([transfer])
    return sink


def assert_right(sink: MemorySink) -> None:
    assert sink.is_whole
    assert sink.data == content()
    for piece, record in sink.durable.items():
        start, stop = piece_span(SIZE, piece)
        data = content()[start:stop]
        hasher = piece_hasher()
        hasher.update(data)
        assert record.digest == hasher.digest()
        assert record.chunk_sums == b"".join(chunk_sum(data[at : at + (4 << 20)]) for at in range(0, len(data), 4 << 20))


def test_a_file_arrives_whole_with_the_digests_of_its_pieces_and_chunks(server: Hostile, client: HttpClient) -> None:
    sink = fetch(server, client)
    assert_right(sink)
    assert sink.written == SIZE
    assert {request.range for request in server.gets("/f")} == {piece_span(SIZE, piece) for piece in range(4)}


CURED: dict[str, list[faults.Fault]] = {
    "cut in the middle": [faults.Cut(after=1_000_000)],
    "cut below one buffer, again and again": [faults.Cut(after=70_000)] * 6,
    "cut before the head": [faults.Cut(after=-1)] * 3,
    "reset in the middle": [faults.Reset(after=5_000_000)] * 3,
    "reset before the head": [faults.Reset()] * 3,
    "stall in the middle": [faults.Stall(after=3_000_000)],
    "stall before the head": [faults.Stall(after=-1)],
    "garbage": [faults.Garbage()] * 3,
    "503 storm": faults.storm(503, 6, retry_after="0"),
    "429 without Retry-After": faults.storm(429, 3),
    "500": faults.storm(500, 3),
    "expired URL": faults.storm(403, 2),
    "wrong Content-Range offset": [faults.WrongContentRange(shift=4096)] * 2,
    "no Content-Range": [faults.WrongContentRange(missing=True)] * 2,
    "a shorter range than asked": [faults.OtherRange(by=1 << 20)] * 3,
    "gzip although identity was asked": [faults.gzipped] * 2,
    "length too long": [faults.WrongLength(by=500)] * 2,
    "length too short": [faults.WrongLength(by=-500)] * 2,
    "a huge header": [faults.HugeHeader()] * 2,
    "headers without end": [faults.endless_headers],
    "broken chunks": [faults.broken_chunks] * 2,
    "two lengths": [faults.two_lengths],
    "chunked": [faults.chunked] * 4,
    "HTTP/1.0": [faults.http10] * 4,
    "closed after each answer": [faults.closes] * 4,
    "closed without a word": [faults.leaves_unsaid] * 4,
    "1xx first": [faults.interim] * 4,
    "range ignored once": [faults.ignores_range],
}


@pytest.mark.parametrize("name", CURED)
def test_what_passes_is_cured_and_no_byte_is_wrong(name: str, server: Hostile, client: HttpClient) -> None:
    server.faults += CURED[name]
    assert_right(fetch(server, client))
    assert not server.faults


def test_a_server_without_ranges_is_read_in_one_stream_without_fetching_journaled_pieces_twice(
    server: Hostile, client: HttpClient
) -> None:
    server.always.append(faults.ignores_range)
    server.faults += [faults.proper] * 4 + [faults.Cut(after=2 * PIECE_BYTES + 5000)]
    sink = fetch(server, client)
    assert_right(sink)
    assert sink.written < 2 * SIZE


ENDS: dict[str, faults.Fault] = {
    "cut before any byte, always": faults.Cut(after=0),
    "503 for ever": faults.Status(503),
    "garbage for ever": faults.Garbage(),
    "gzip for ever": faults.gzipped,
    "wrong range for ever": faults.WrongContentRange(shift=4096),
    "redirects for ever": faults.Redirect(),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_does_not_pass_ends_with_one_line_that_says_what_to_do(name: str, server: Hostile, client: HttpClient) -> None:
    server.always.append(ENDS[name])
    with pytest.raises(Unavailable, match=r"model\.bin: gave up after 8 failures.*run the same command again"):
        fetch(server, client)


def test_the_retry_budget_is_per_piece_and_reset_by_progress(server: Hostile, client: HttpClient) -> None:
    server.faults += [faults.Cut(after=1_000_000)] * 40
    assert_right(fetch(server, client))


@pytest.mark.parametrize(
    "fault", [faults.WrongContentRange(total_shift=1), faults.ETag('"other"'), faults.Status(412)], ids=["total", "etag", "412"]
)
def test_another_version_is_never_mixed_in(fault: faults.Fault, server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: fault if request.range == piece_span(SIZE, 2) else None
    transfer, _ = transfer_of(server.url("/f"), SIZE, client=client, etag='"generation-1"')
    with Engine(QUICK) as engine, pytest.raises(Changed):
        engine.fetch([transfer])


@pytest.mark.parametrize("framing", [faults.chunked, faults.http10], ids=["chunked", "closed"])
@pytest.mark.parametrize("size_bytes", [1000, SIZE])
def test_a_whole_file_that_goes_on_behind_the_pinned_size_is_another_version(
    framing: faults.Fault, size_bytes: int, server: Hostile, client: HttpClient
) -> None:
    server.put("/f", Served(content()[:size_bytes] + b"!", etag=None, last_modified=None))
    server.always += [faults.ignores_range, framing]
    transfer, sink = transfer_of(server.url("/f"), size_bytes, client=client)
    with Engine(QUICK) as engine, pytest.raises(Changed, match="longer"):
        engine.fetch([transfer])
    assert not sink.is_whole


@pytest.mark.parametrize("framing", [faults.chunked, faults.http10], ids=["chunked", "closed"])
@pytest.mark.parametrize("size_bytes", [1, 1000, SIZE])
def test_a_whole_file_of_the_pinned_size_needs_no_stated_length(
    framing: faults.Fault, size_bytes: int, server: Hostile, client: HttpClient
) -> None:
    server.put("/f", Served(content()[:size_bytes], etag=None, last_modified=None))
    server.always += [faults.ignores_range, framing]
    transfer, sink = transfer_of(server.url("/f"), size_bytes, client=client)
    with Engine(QUICK) as engine:
        engine.fetch([transfer])
    assert sink.is_whole
    assert sink.data == content()[:size_bytes]


def test_cancel_ends_what_is_still_waiting_for_an_answer(server: Hostile) -> None:
    """Not even a head has come, and the client would wait for it longer than this test may take."""
    server.choose = lambda request: faults.Stall(after=-1)
    patient, cancel = HttpClient(NetConfig(idle_timeout_s=1000, slow_timeout_s=1000)), threading.Event()

    def on_progress(progress: Progress) -> None:
        if len(server.gets()) == 4:
            cancel.set()

    transfer, _ = transfer_of(server.url("/f"), SIZE, client=patient)
    with Engine(QUICK) as engine, pytest.raises(Cancelled):
        engine.fetch([transfer], on_progress=on_progress, cancel=cancel)
    patient.close()


def test_what_is_fatal_for_the_origin_ends_the_job_with_its_error(server: Hostile, client: HttpClient) -> None:
    server.always.append(faults.Status(404))
    with pytest.raises(FileNotFoundError):
        fetch(server, client)


def test_a_second_engine_goes_on_where_a_failed_one_stopped(server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: faults.Status(404) if request.range == piece_span(SIZE, 3) else None
    sink = MemorySink(SIZE)
    with pytest.raises(FileNotFoundError):
        fetch(server, client, Limits(connections_start=1, connections_max=1, journal_interval_s=60), sink)
    assert set(sink.durable) == {0, 1, 2}
    server.choose = lambda request: None
    server.requests.clear()
    fetch(server, client, sink=sink)
    assert_right(sink)
    assert [request.range for request in server.gets()] == [piece_span(SIZE, 3)]


def test_a_straggler_is_hedged_and_no_byte_is_written_twice(server: Hostile, client: HttpClient) -> None:
    first = threading.Event()

    def slow_once(request: Request) -> faults.Fault | None:
        if request.range == piece_span(SIZE, 1) and not first.is_set():
            first.set()
            return faults.Drip(1_000_000)
        return None

    server.choose = slow_once
    began = time.monotonic()
    sink = fetch(server, client, Limits(connections_start=4, connections_max=4, hedge_after_s=0.3))
    assert_right(sink)
    assert sink.written == SIZE
    asked = [request.range for request in server.gets() if request.range is not None]
    assert len([stop for _, stop in asked if stop == 2 * PIECE_BYTES]) == 2
    assert time.monotonic() - began < 10  # the drip alone takes 16 s


def test_a_waiting_pod_pre_empts_and_the_other_goes_on_at_its_cursor(server: Hostile, client: HttpClient) -> None:
    server.put("/urgent", content())
    server.choose = lambda request: faults.Drip(8_000_000) if request.path == "/f" else None
    slow, slow_sink = transfer_of(server.url("/f"), SIZE, client=client)
    urgent, urgent_sink = transfer_of(server.url("/urgent"), SIZE, client=client)
    order: list[str] = []
    with Engine(Limits(connections_start=2, connections_max=2)) as engine:

        def background() -> None:
            engine.fetch([slow], priority=Priority.FOLLOW_ON)
            order.append("slow")

        thread = threading.Thread(target=background)
        thread.start()
        while not slow_sink.written:
            time.sleep(0.01)
        engine.fetch([urgent], priority=Priority.WAITING_POD)
        order.append("urgent")
        server.choose = lambda request: None
        thread.join()
    assert order == ["urgent", "slow"]
    assert_right(urgent_sink)
    assert_right(slow_sink)
    assert slow_sink.written == SIZE


def test_cancel_ends_soon_and_keeps_what_was_received(server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: faults.Drip(20_000) if request.range == piece_span(SIZE, 3) else None
    transfer, sink = transfer_of(server.url("/f"), SIZE, client=client)
    cancel = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.bytes_done >= 3 * PIECE_BYTES:
            cancel.set()

    with Engine(Limits(journal_interval_s=60)) as engine, pytest.raises(Cancelled):
        engine.fetch([transfer], on_progress=on_progress, cancel=cancel)
    assert set(sink.durable) == {0, 1, 2}


def test_a_sink_that_cannot_write_ends_the_job_with_its_error(server: Hostile, client: HttpClient) -> None:
    sink = MemorySink(SIZE)
    sink.fails = Full("no room")
    with pytest.raises(Full, match="no room"):
        fetch(server, client, sink=sink)


def test_the_rate_cap_holds(server: Hostile, client: HttpClient) -> None:
    began = time.monotonic()
    fetch(server, client, Limits(rate_bytes_per_s=SIZE / 1.5))
    assert time.monotonic() - began > 1.2


def test_a_cap_that_is_lifted_at_run_time_lets_a_transfer_of_hours_end(server: Hostile, client: HttpClient) -> None:
    transfer, sink = transfer_of(server.url("/f"), SIZE, client=client)
    with Engine(QUICK, RateLimit(1000.0)) as engine:
        engine.fetch([transfer], on_progress=lambda progress: engine.rate.set_rate(None) if progress.bytes_done else None)
    assert_right(sink)


def test_a_503_halves_the_connections(server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: faults.Drip(30e6)
    server.faults += faults.storm(503, 1)
    limits = Limits(connections_start=4, connections_max=4, backoff_base_s=0.01)
    assert_right(fetch(server, client, limits))


def test_an_empty_file_and_many_small_ones_share_a_job(client: HttpClient) -> None:
    sizes = [0, 1, 4095, 4096, 4097, *range(100, 140)]
    with Hostile({f"/{index}": content()[:size] for index, size in enumerate(sizes)}) as server, Engine(QUICK) as engine:
        pairs = [transfer_of(server.url(f"/{index}"), size, client=client) for index, size in enumerate(sizes)]
        job = engine.fetch([transfer for transfer, _ in pairs])
    assert job.bytes_by_source == {"origin": sum(sizes)}
    for (_, sink), size in zip(pairs, sizes, strict=True):
        assert sink.is_whole
        assert sink.data == content()[:size]
