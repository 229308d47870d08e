"""WRITE messages to the content store, put together by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prestage.images.containerd.content import CHUNK_BYTES, written
from prestage.wire.containerd_pb2 import WRITE, ContentWriteRequest


@given(st.text(max_size=80), st.integers(0, (1 << 63) - 1), st.binary(max_size=300))
def test_they_are_what_protobuf_would_have_written(ref: str, offset: int, data: bytes) -> None:
    wanted = ContentWriteRequest(action=WRITE, ref=ref, offset=offset, data=data)
    assert ContentWriteRequest.FromString(written(ref, offset, memoryview(data))) == wanted


def test_a_full_one_too() -> None:
    data = bytes(CHUNK_BYTES)
    assert ContentWriteRequest.FromString(written("layer-x", 1 << 40, memoryview(data))).data == data
