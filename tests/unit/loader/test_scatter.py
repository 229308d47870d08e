"""Where the bytes of a block go in a part's result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prestage.loader.dtypes import DTYPES
from prestage.loader.header import TensorInfo
from prestage.loader.plan import cut
from prestage.loader.scatter import rows


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 64), st.data())
def test_blocks_of_any_size_put_every_byte_in_its_place(count: int, columns: int, window: int, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, columns)] * 2)))
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, count)] * 2)))
    file = bytes(at % 251 for at in range(100 + count * columns + 50))
    info = TensorInfo("w", DTYPES["U8"], (count, columns), 100, 100 + count * columns)
    part = cut(info, 0, (slice(first, last), slice(low, high)))
    wanted = b"".join(file[100 + row * columns + low : 100 + row * columns + high] for row in range(first, last))
    result = bytearray(b"\xff" * part.size_bytes)
    written = 0
    for start in range(0, len(file), window):
        requests = list(rows(part, start, min(start + window, len(file)))) if part.size_bytes else []
        assert len(requests) <= 3
        for request in requests:
            for row in range(request.rows):
                source = request.offset + row * request.stride
                assert start <= source
                assert source + request.width <= start + window
                target = request.target + row * request.pitch
                result[target : target + request.width] = file[source : source + request.width]
                written += request.width
    assert bytes(result) == wanted
    assert written == part.size_bytes
