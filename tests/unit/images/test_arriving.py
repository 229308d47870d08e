"""What has come of a layer, counted off the wire."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.transfer.ports import Retry, Stream
from prestage.images.arriving import Arrivals, Metered, step_bytes

SIZE = 3 * PIECE_BYTES


@given(
    st.integers(0, SIZE - 1),
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(1, PIECE_BYTES), min_size=1, max_size=4)), max_size=6),
)
def test_a_byte_that_comes_twice_counts_once_and_what_was_here_does_not_count(
    first: int, reads: list[tuple[int, list[int]]]
) -> None:
    arrivals, furthest = Arrivals(first), dict[int, int]()
    for piece, stops in reads:
        for stop in sorted(stops):
            arrivals.reach(piece * PIECE_BYTES + stop)
            furthest[piece] = max(furthest.get(piece, 0), stop)
    fresh = (piece * PIECE_BYTES + stop - max(first, piece * PIECE_BYTES) for piece, stop in furthest.items())
    assert arrivals.so_far == first + sum(max(0, count) for count in fresh)


class Given:
    """Gives so many bytes of a range, then fails."""

    name, lane = "origin", "here"

    def __init__(self, gives: int) -> None:
        self.left = gives
        self.asked: list[int] = []

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        return self

    def readinto(self, buffer: memoryview) -> int:
        self.asked.append(len(buffer))
        if not self.left:
            raise Retry("the line is down")
        count = min(self.left, len(buffer))
        self.left -= count
        return count

    def abort(self) -> None:
        return

    def close(self) -> None:
        return


@pytest.mark.parametrize("gives", [700, 750, 800])
def test_what_came_before_a_failure_is_handed_over_and_told_and_the_failure_comes_next(gives: int) -> None:
    source, told = Given(gives), list[int]()
    stream = Metered(source, 100, told.append, start=PIECE_BYTES).open(50, 5000)
    assert stream.readinto(memoryview(bytearray(1000))) == gives
    assert told[-1] == PIECE_BYTES + 50 + gives
    assert max(after - before for before, after in itertools.pairwise(told)) == 100
    with pytest.raises(Retry):
        stream.readinto(memoryview(bytearray(1000)))
    assert max(source.asked) == 100


def test_what_is_on_its_way_uncounted_is_a_small_part_of_the_whole_but_no_read_is_tiny() -> None:
    for total in (1 << 20, 40 << 20, 20 << 30):
        for connections in (1, 3, 32):
            step = step_bytes(total, connections)
            assert step == 16 << 10 or step * connections <= 0.01 * total
    assert step_bytes(0, 0) == 16 << 10
