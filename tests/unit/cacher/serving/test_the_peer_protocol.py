"""What peers tell each other in JSON, and what of it is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import BIG, name_of
from stores.making import records_of

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Corrupt
from prestage.cacher.serving.ingests import ingest_size
from prestage.cacher.serving.protocol import Meta, Progress, read_meta, read_progress

RECORDS = records_of(BIG)
META = Meta(len(BIG), [record.digest for record in RECORDS], b"".join(record.chunk_sums for record in RECORDS))
BLOB = name_of(BIG)
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=70), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


def test_a_meta_is_read_as_it_was_written() -> None:
    assert read_meta(META.to_bytes(), BLOB) == META


@pytest.mark.parametrize(
    "change",
    [
        {"size": len(BIG) + 1},
        {"pieces": "00" * 96},
        {"pieces": ""},
        {"pieces": "zz"},
        {"chunks": ""},
        {"format": 2},
        {"piece_bytes": 1},
        {"size": True},
        {"size": -1},
        {"size": "1"},
    ],
)
def test_a_meta_that_does_not_prove_the_name_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        read_meta(json.dumps({**json.loads(META.to_bytes()), **change}).encode(), BLOB)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_as_meta_and_progress(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        read_meta(raw, BLOB)
    with pytest.raises(Corrupt):
        read_progress(raw, len(BIG))


@given(JSON, st.sampled_from(["size", "records", "first", "pieces", "blob", "format"]))
def test_a_progress_with_any_field_changed_is_sound_or_refused(value: object, field: str) -> None:
    document = json.loads(Progress(len(BIG), 2, 1, {0: b"\1" * 32}).to_bytes())
    try:
        progress = read_progress(json.dumps({**document, field: value}).encode(), len(BIG))
    except Corrupt:
        return
    assert 0 <= progress.first <= progress.records <= 3
    assert all(0 <= piece < 3 and len(digest) == 32 for piece, digest in progress.pieces.items())


def test_a_progress_is_read_as_it_was_written() -> None:
    progress = Progress(3 * PIECE_BYTES, 3, 1, {2: b"\1" * 32, 0: b"\2" * 32}, BLOB)
    assert read_progress(progress.to_bytes(), 3 * PIECE_BYTES) == progress
    assert list(progress.pieces) == [2, 0]
    with pytest.raises(Corrupt):
        read_progress(progress.to_bytes(), 3 * PIECE_BYTES + 1)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_an_ingests_meta_states_a_size_or_is_none(raw: bytes) -> None:
    size = ingest_size(raw)
    assert size is None or size >= 0
