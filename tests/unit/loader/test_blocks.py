"""The queue of blocks: order, urgency, failure, and room."""

from __future__ import annotations

import threading

import pytest

from prestage.loader import Closed, OverBudget
from prestage.loader.blocks import BlockQueue


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


def test_a_stopped_queue_gives_nothing_and_waits_for_nothing() -> None:
    queue = BlockQueue(2)
    queue.stop()
    assert queue.take() is None
    with pytest.raises(Closed):
        queue.wait([range(2)])
