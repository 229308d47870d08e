"""The queue of blocks: order, urgency, failure, and room."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from prestage.loader import Closed, OverBudget
from prestage.loader.blocks import BlockQueue
from prestage.loader.crew import Crew


class Shelf:
    """Room for so many blocks at once."""

    def __init__(self, size: int) -> None:
        self.free = size

    def fits(self, block: int) -> bool:
        return self.free > 0

    def occupy(self, block: int) -> None:
        self.free -= 1


def test_blocks_are_taken_once_and_in_order() -> None:
    queue = BlockQueue(4)
    taken = []
    while (block := queue.take()) is not None:
        taken.append(block)
        queue.land(block)
    assert (taken, queue.done) == ([0, 1, 2, 3], True)
    queue.wait([range(4)])


def test_what_somebody_waits_for_goes_first() -> None:
    queue = BlockQueue(10)
    assert queue.take() == 0
    waiter = threading.Thread(target=queue.wait, args=([range(7, 9)],))
    waiter.start()
    while not queue._urgent:
        waiter.join(0.01)
    taken = [queue.take() for _ in range(3)]
    assert taken == [7, 8, 1]
    for block in (7, 8):
        queue.land(block)
    waiter.join()


def test_a_failure_reaches_whoever_waits_now_or_later_and_ends_the_taking() -> None:
    queue = BlockQueue(3)
    assert queue.take() == 0
    caught: list[OSError] = []

    def wait() -> None:
        try:
            queue.wait([range(2, 3)])
        except OSError as exc:
            caught.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    queue.fail(OSError("bad disk"))
    waiter.join()
    assert [str(exc) for exc in caught] == ["bad disk"]
    with pytest.raises(OSError, match="bad disk"):
        queue.wait([range(1)])
    assert queue.take() is None


def test_without_room_a_taker_waits_until_there_is_some() -> None:
    shelf = Shelf(1)
    queue = BlockQueue(2, shelf)
    assert queue.take() == 0
    taken: list[int | None] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    queue.land(0)
    shelf.free = 1
    queue.nudge()
    taker.join()
    assert taken == [1]


def test_waiting_for_what_has_no_room_is_an_error_when_nobody_reads() -> None:
    shelf = Shelf(1)
    queue = BlockQueue(2, shelf)
    assert queue.take() == 0
    queue.land(0)
    with pytest.raises(OverBudget, match="fill the budget"):
        queue.wait([range(1, 2)])
    queue.wait([range(1)])


class Sized:
    """Room for so many bytes, of blocks of these sizes."""

    def __init__(self, sizes: Sequence[int], free: int) -> None:
        self._sizes = sizes
        self.free = free

    def fits(self, block: int) -> bool:
        return self._sizes[block] <= self.free

    def occupy(self, block: int) -> None:
        self.free -= self._sizes[block]


def waiting(queue: BlockQueue, block: int) -> threading.Thread:
    thread = threading.Thread(target=queue.wait, args=([range(block, block + 1)],))
    thread.start()
    return thread


def test_after_a_refusal_what_fits_is_read() -> None:
    queue = BlockQueue(4, Sized([8, 8, 8, 1], 18))
    crew = Crew(queue, lambda _: None, 4)
    queue.wait([range(2)])
    for _ in range(2):
        with pytest.raises(OverBudget):
            queue.wait([range(2, 3)])
    small = waiting(queue, 3)
    small.join(10)
    came = not small.is_alive()
    crew.end()
    assert came


def test_of_what_is_waited_for_that_which_fits_goes_before_that_which_does_not() -> None:
    room = Sized([1, 8, 1], 8)
    queue = BlockQueue(3, room)
    assert queue.take() == 0
    waiters = [waiting(queue, block) for block in (1, 2)]
    while len(queue._urgent) < 2:
        waiters[0].join(0.01)
    assert queue.take() == 2
    queue.land(2)
    room.free = 8
    assert queue.take() == 1
    queue.land(1)
    for waiter in waiters:
        waiter.join()


def test_a_stopped_queue_gives_nothing_and_waits_for_nothing() -> None:
    queue = BlockQueue(2)
    queue.stop()
    assert queue.take() is None
    with pytest.raises(Closed):
        queue.wait([range(2)])
