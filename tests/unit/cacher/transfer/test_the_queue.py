"""Who fetches what next, with a clock in hand and no thread but the one that waits."""

from __future__ import annotations

import math
import random
import threading
import time

import pytest
from transfers import MemorySink
from transfers.simulated import Range, Scripted

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.job import Job
from prestage.cacher.transfer.limits import LaneLimit, Limits, Priority, retry_delay_s
from prestage.cacher.transfer.ports import Retry
from prestage.cacher.transfer.queue import LANES_REMEMBERED, Attempt, Outcome, WorkQueue
from prestage.cacher.transfer.rate import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now, self.asked = 1000.0, 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


def job_of(pieces: int, lane: str = "lane", priority: Priority = Priority.DECLARED) -> Job:
    source = Scripted(lambda start, stop, nth: Range(b"", start, stop))
    source.lane = lane
    return Job([Transfer("model.bin", source, MemorySink(pieces * PIECE_BYTES))], priority)


def began(queue: WorkQueue) -> Attempt:
    attempt = queue.next()
    assert attempt is not None
    return attempt


def test_idle_threads_sleep_while_what_is_due_waits_for_a_connection() -> None:
    clock = Clock()
    queue = WorkQueue(Limits(connections_start=1, connections_max=4), clock=clock)
    job = job_of(2)
    queue.add(job)
    for _ in range(2):
        queue.end(began(queue), Outcome.FAILED, Retry("reset"))
    clock.now += 60
    began(queue)
    assert len(job.parked) == 1
    idle = [threading.Thread(target=queue.next) for _ in range(3)]
    for thread in idle:
        thread.start()
    time.sleep(0.2)
    before = clock.asked
    time.sleep(0.3)
    woken = clock.asked - before
    queue.close()
    for thread in idle:
        thread.join()
    assert woken < 20


def test_of_what_pods_wait_for_the_one_with_least_left_goes_first_and_takes_connections_from_a_longer_one() -> None:
    queue = WorkQueue(Limits(connections_start=2, connections_max=2), clock=Clock())
    long, short, ahead = (
        job_of(9, priority=Priority.WAITING_POD),
        job_of(2, priority=Priority.WAITING_POD),
        job_of(1, priority=Priority.DECLARED),
    )
    queue.add(long)
    first, second = began(queue), began(queue)
    queue.add(short)
    assert (first.leaves(), second.leaves()) == (True, True)
    queue.add(ahead)
    for attempt in (first, second):
        queue.end(attempt, Outcome.LEFT)
    assert [began(queue).job, began(queue).job] == [short, short]


def test_a_large_one_that_waited_long_goes_before_a_small_one_that_just_came() -> None:
    clock = Clock()
    queue = WorkQueue(Limits(connections_start=1, connections_max=1), clock=clock)
    large, small = job_of(100, priority=Priority.WAITING_POD), job_of(90, priority=Priority.WAITING_POD)
    queue.add(large)
    running = began(queue)
    clock.now += 60
    queue.add(small)
    assert not running.leaves()
    queue.end(running, Outcome.LEFT)
    assert began(queue).job is large


def test_who_stages_ahead_is_served_in_the_order_in_which_it_was_told() -> None:
    queue = WorkQueue(Limits(connections_start=1, connections_max=1), clock=Clock())
    first, second = job_of(9), job_of(1)
    queue.add(first)
    running = began(queue)
    queue.add(second)
    assert not running.leaves()
    queue.end(running, Outcome.LEFT)
    assert began(queue).job is first


def test_a_lane_grows_again_when_only_begun_pieces_are_left() -> None:
    clock = Clock()
    queue = WorkQueue(Limits(connections_start=1, connections_max=8), clock=clock)
    queue.add(job_of(2))
    queue.end(began(queue), Outcome.FAILED, Retry("reset"))
    running = began(queue)
    assert running.flight.piece == 1
    queue.moved(running, 1 << 20)
    queue.tick(1.0)
    assert queue.wanted_threads() == 3


def test_a_storm_counts_also_after_a_step_that_brought_nothing() -> None:
    lane = LaneLimit(Limits(connections_start=8, connections_max=16))
    lane.observe(0, 100, saturated=True)
    lane.observe(1, 100, saturated=True)
    assert lane.current == 8
    lane.congested(2)
    assert lane.current == 4
    lane.congested(3)
    assert lane.current == 4


def test_a_retry_after_that_is_no_number_waits_no_longer_than_another() -> None:
    delay = retry_delay_s(Limits(), 3, math.nan, random.Random(0))
    assert 0 <= delay <= 1


def test_who_leaves_the_line_of_a_rate_gives_its_place_back() -> None:
    rate, leaving, stays = RateLimit(10_000.0), threading.Event(), threading.Event()
    rate.take(2_000, stays)
    waiting = threading.Thread(target=rate.take, args=(1_000_000, leaving))
    waiting.start()
    time.sleep(0.05)
    began_s = time.monotonic()
    leaving.set()
    waiting.join()
    rate.take(1, stays)
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize(("rate", "portion"), [(None, 2 << 20), (1e9, 2 << 20), (8 << 20, 256 << 10), (1.0, 64 << 10)])
def test_a_capped_engine_takes_small_portions_so_that_every_connection_gets_its_turn(rate: float | None, portion: int) -> None:
    assert Limits().portion_bytes(rate) == portion


def test_servers_that_nobody_fetches_from_any_more_are_forgotten_the_longest_unused_first() -> None:
    queue = WorkQueue(Limits())
    queue.add(job_of(1, "running"))
    for number in range(5 * LANES_REMEMBERED):
        for job in (job_of(1, "often"), job_of(1, f"host-{number}")):
            queue.add(job)
            queue.remove(job)
    assert len(queue._lanes) == LANES_REMEMBERED
    assert {"running", "often", f"host-{number}"} <= queue._lanes.keys()
