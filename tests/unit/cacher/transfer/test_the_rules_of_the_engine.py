"""Retries, lanes, rates, checksums, order: what decides, without any I/O."""

from __future__ import annotations

import hashlib
import random
import threading
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfers import MemorySink

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Misconfigured
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.limits import LaneLimit, Limits, Patience, retry_delay_s
from prestage.cacher.transfer.ordered import Follower, Followers
from prestage.cacher.transfer.ports import PieceRecord
from prestage.cacher.transfer.rate import RateLimit


@given(st.integers(0, 1000), st.none() | st.floats(-10, 1e6), st.integers())
def test_a_delay_is_never_negative_and_never_above_its_cap(failures: int, after_s: float | None, seed: int) -> None:
    limits = Limits()
    delay = retry_delay_s(limits, failures, after_s, random.Random(seed))
    assert 0 <= delay <= max(limits.backoff_cap_s, limits.retry_after_cap_s + 1)
    if after_s is not None:
        assert delay >= min(max(after_s, 0), limits.retry_after_cap_s)


def test_patience_ends_by_count_or_by_time_and_progress_renews_it() -> None:
    limits = Limits(attempts=3, patience_s=100)
    patience = Patience()
    patience.failed(0, 1)
    patience.failed(1, 1)
    assert not patience.is_over(limits, 1)
    patience.progressed()
    patience.failed(2, 1)
    assert not patience.is_over(limits, 102)
    assert patience.is_over(limits, 103)
    patience.failed(3, 1)
    patience.failed(4, 1)
    assert patience.is_over(limits, 4)


def test_a_lane_grows_while_it_pays_and_stops_when_it_does_not() -> None:
    lane = LaneLimit(Limits(connections_start=4, connections_max=16))
    for second, rate in enumerate([400.0, 600.0, 800.0]):
        lane.observe(second, rate, saturated=True)
    assert lane.current == 10
    lane.observe(3, 810, saturated=True)
    assert lane.current == 8
    lane.observe(4, 2000, saturated=True)
    assert lane.current == 8


def test_an_idle_lane_learns_nothing_and_a_storm_halves_it_once() -> None:
    lane = LaneLimit(Limits(connections_start=8, connections_max=16))
    lane.observe(0, 1, saturated=False)
    assert lane.current == 8
    for _ in range(8):
        lane.congested(1.0)
    assert lane.current == 4
    lane.congested(7.0)
    assert lane.current == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"buffer_bytes": 3 << 20}, "does not divide"),
        ({"buffer_bytes": 1000}, "does not divide"),
        ({"connections_start": 0}, "at least 1"),
        ({"connections_start": 9, "connections_max": 8}, "not above the maximum"),
        ({"connections_max": 64}, "over 64 MiB"),
        ({"rate_bytes_per_s": 0.0}, "above zero"),
    ],
)
def test_limits_that_cannot_work_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        Limits(**settings)  # type: ignore[arg-type] # the table mixes ints and floats


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from(checksums.ALGORITHMS))
def test_checksums_of_pieces_combine_to_that_of_the_whole(parts: list[bytes], name: str) -> None:
    crc = checksums.algorithm(name)
    records = [PieceRecord(i, len(part), b"", b"", crc.update(part, 0)) for i, part in enumerate(parts)]
    whole = b"".join(parts)
    assert checksums.whole(name, records) == f"{name}:{crc.update(whole, 0):0{crc.hex_digits}x}"


def test_crc32_is_the_one_of_zlib() -> None:
    assert checksums.algorithm("crc32").update(b"prestage", 0) == zlib.crc32(b"prestage")


@given(st.permutations(range(3)))
def test_a_follower_hashes_in_file_order_whatever_the_order_of_arrival(order: list[int]) -> None:
    sink = MemorySink(2 * PIECE_BYTES + 5)
    sink.data[:5] = b"first"
    sink.data[-5:] = b"final"
    follower, followers = Follower(sink, "sha256"), Followers()
    followers.add(follower)
    followers.start()
    for piece in order:
        follower.advance(piece)
    followers.finish(wanted=True)
    assert follower.digest == f"sha256:{hashlib.sha256(sink.data).hexdigest()}"


def test_git_hashes_with_its_header() -> None:
    sink = MemorySink(5)
    sink.data[:] = b"hello"
    follower = Follower(sink, "git-sha1")
    follower.advance(0)
    follower.run()
    assert follower.digest == f"git-sha1:{hashlib.sha1(b'blob 5' + bytes(1) + b'hello').hexdigest()}"


def test_a_stopped_follower_leaves_no_digest_and_no_thread() -> None:
    follower, followers = Follower(MemorySink(PIECE_BYTES), "sha256"), Followers()
    followers.add(follower)
    followers.start()
    followers.finish(wanted=False)
    assert follower.digest is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prestage-digest")]


def test_many_threads_share_one_rate() -> None:
    rate, stopped = RateLimit(1000.0), threading.Event()
    began = time.monotonic()
    threads = [threading.Thread(target=rate.take, args=(100, stopped)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 0.39
