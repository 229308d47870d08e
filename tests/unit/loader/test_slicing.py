"""Which bytes a slice needs, and which indices are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.loader import BadIndex
from prestage.loader.dtypes import DTYPES
from prestage.loader.header import TensorInfo
from prestage.loader.slicing import byte_span, checked_index

PARTS = st.one_of(
    st.integers(-7, 7),
    st.slices(6),
    st.builds(slice, st.none() | st.integers(-7, 7), st.none() | st.integers(-7, 7), st.none() | st.integers(-3, 3)),
    st.just(...),
)
INDICES = PARTS | st.lists(PARTS, max_size=4).map(tuple)


def info(*shape: int, start: int = 100) -> TensorInfo:
    return TensorInfo("a", DTYPES["I32"], shape, start, start + 4 * int(np.prod(shape)))


@given(shape=st.lists(st.integers(0, 6), max_size=3), index=INDICES)
def test_the_span_of_an_index_holds_every_byte_that_numpy_takes(shape: list[int], index: object) -> None:
    tensor = info(*shape)
    positions = np.arange(tensor.start, tensor.stop, 4).reshape(shape)
    try:
        taken = positions[checked_index(tensor, index)]
    except BadIndex:
        return
    low, high = byte_span(tensor, index)
    assert tensor.start <= low <= high <= tensor.stop
    assert all(low <= position < high for position in np.ravel(taken))


def test_a_slice_of_rows_needs_these_rows_only() -> None:
    tensor = info(10, 5)
    assert byte_span(tensor, slice(2, 4)) == (140, 180)
    assert byte_span(tensor, (slice(None, None, -3), 0)) == (100, 300)
    assert byte_span(tensor, -1) == (280, 300)
    assert byte_span(tensor, slice(3, 3)) == (100, 100)


@pytest.mark.parametrize("index", [None, [1], "a", 1.5, (0, [1]), object()])
def test_an_index_that_nobody_understands_needs_the_whole_tensor(index: object) -> None:
    low, high = byte_span(info(10, 5), index)
    assert (low, high) in ((100, 300), (100, 120))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (4, "out of bounds"),
        (-5, "Invalid index -5 for dimension 0"),
        (slice(0, 5), "out of bounds"),
        (slice(5, None), "out of bounds"),
        ((0, 0, 0), "more slicing indexes"),
        ([1], "Non empty lists"),
        (None, "expected slice, int, or ellipsis"),
        ("x", "expected slice, int, or ellipsis"),
        (slice(None, None, 0), "step of 0"),
        ((..., ...), "more than one ellipsis"),
    ],
)
def test_what_does_not_fit_is_refused(index: object, said: str) -> None:
    with pytest.raises(BadIndex, match=said):
        checked_index(info(4, 6), index)
