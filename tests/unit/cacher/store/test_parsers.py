"""Everything that the store reads back, damaged in every way: a clear error or as good as nothing, never a traceback."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.making import Model, Steps, blob_of, content, records_of, stage
from stores.scenarios import SMALL, is_whole

from prestage.cacher.digests import ArtifactId, hex_of
from prestage.cacher.errors import Busy, Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import parse_manifest
from prestage.cacher.store import format as formats
from prestage.cacher.store import journal
from prestage.cacher.store.blobs import BlobMeta, parse_meta
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.ports import PieceRecord

DATA = content(40_000_000, "journal")
SIZE = len(DATA)
RECORDS = records_of(DATA)
RAW = b"".join(journal.encode(record) for record in RECORDS)
META = BlobMeta(SIZE, tuple(record.digest for record in RECORDS), b"".join(record.chunk_sums for record in RECORDS))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def test_a_journal_is_read_back_as_it_was_written() -> None:
    records, length = journal.decode(RAW, SIZE)
    assert records == {record.piece: record for record in RECORDS}
    assert length == len(RAW) == 3 * journal.RECORD_BYTES


def test_a_record_is_laid_out_as_the_page_on_the_format_says() -> None:
    raw = journal.encode(PieceRecord(1, 16 << 20, b"\x11" * 32, b"\x22" * 64, 0x0102030405060708))
    assert raw[:4] == b"PSJ1"
    assert int.from_bytes(raw[4:8], "little") == 1
    assert int.from_bytes(raw[8:12], "little") == 16 << 20
    assert raw[12:16] == bytes(4)
    assert int.from_bytes(raw[16:24], "little") == 0x0102030405060708
    assert raw[24:56] == b"\x11" * 32
    assert raw[56:120] == b"\x22" * 64
    assert len(raw) == 128


@given(cut=st.integers(0, len(RAW)))
def test_a_torn_journal_gives_the_records_that_are_whole(cut: int) -> None:
    records, length = journal.decode(RAW[:cut], SIZE)
    assert len(records) == cut // journal.RECORD_BYTES
    assert length == len(records) * journal.RECORD_BYTES


@given(at=st.integers(0, len(RAW) - 1), change=st.integers(1, 255))
def test_a_changed_byte_ends_the_journal_before_its_record(at: int, change: int) -> None:
    raw = bytearray(RAW)
    raw[at] ^= change
    records, length = journal.decode(bytes(raw), SIZE)
    assert length == at // journal.RECORD_BYTES * journal.RECORD_BYTES
    assert all(records[piece] == RECORDS[piece] for piece in records)


@given(raw=st.binary(max_size=1024), size=st.integers(0, 1 << 40))
def test_garbage_is_no_journal(raw: bytes, size: int) -> None:
    assert journal.decode(raw, size) == ({}, 0) or len(raw) < journal.RECORD_BYTES


@given(size=st.integers(0, 1 << 45))
def test_records_of_a_file_of_another_size_are_not_taken(size: int) -> None:
    records, _ = journal.decode(RAW, size)
    assert all(record.size_bytes == min(16 << 20, size - piece * (16 << 20)) for piece, record in records.items())


@pytest.mark.parametrize("later", [RECORDS[0], RECORDS[2]])
def test_the_last_record_of_a_piece_wins(later: PieceRecord) -> None:
    records, _ = journal.decode(RAW + journal.encode(later), SIZE)
    assert records[later.piece] == later


def test_a_meta_is_read_back_as_it_was_written() -> None:
    assert META.blob == blob_of(DATA)
    assert parse_meta(META.to_bytes(), META.blob) == META


@given(raw=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_meta(raw: bytes) -> None:
    with pytest.raises((Corrupt, Misconfigured)):
        parse_meta(raw, META.blob)


@given(
    field=st.sampled_from(["format", "size", "pieces", "chunk_bytes", "chunks", "digests", "authorities", "files"]),
    value=json_values,
)
def test_a_meta_with_a_wrong_field_is_refused_or_still_true(field: str, value: object) -> None:
    document = json.loads(META.to_bytes())
    document[field] = value
    try:
        meta = parse_meta(json.dumps(document).encode(), META.blob)
    except (Corrupt, Misconfigured) as exc:
        assert "\n" not in str(exc)
    else:
        assert (meta.blob, meta.size_bytes, len(meta.chunk_sums)) == (META.blob, SIZE, len(META.chunk_sums))


def test_a_meta_of_another_blob_is_refused() -> None:
    with pytest.raises(Corrupt, match="of other bytes"):
        parse_meta(META.to_bytes(), blob_of(b"other"))


@given(raw=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_manifest(raw: bytes) -> None:
    with pytest.raises((Corrupt, Misconfigured)):
        parse_manifest(raw)
    with pytest.raises(Corrupt):
        parse_manifest(raw, SMALL.artifact)


@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_garbage_format_file_is_refused(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        layout.format.write_bytes(raw)
        with pytest.raises(Misconfigured) as caught:
            formats.check(layout)
        assert "\n" not in str(caught.value)


@contextmanager
def a_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Store.open(Path(folder) / "store", own=True) as store:
        stage(store, SMALL)
        yield store


def replace_file(path: Path, raw: bytes) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw)


def targets(store: Store) -> dict[str, Path]:
    name = hex_of(SMALL.artifact)
    blob = hex_of(blob_of(SMALL.contents["config.json"]))
    return {
        "manifest": store.root / "manifests" / f"{name}.json",
        "binding": store.root / "manifests" / f"{name}.binding",
        "meta": store.root / "blobs" / blob[:2] / f"{blob}.meta",
        "ref": next((store.root / "refs").iterdir()),
        "hold": store.root / "holds" / name / "pin-x.json",
        "ingest meta": store.root / "ingest" / ("0" * 64) / "meta",
        "index": store.root / "index.db",
    }


@pytest.mark.parametrize("what", ["manifest", "binding", "meta", "ref", "hold", "ingest meta", "index"])
@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_store_with_garbage_in_any_small_file_says_so_and_is_mended_by_staging_again(what: str, raw: bytes) -> None:
    with a_store() as store:
        root = store.root
        replace_file(targets(store)[what], raw)
        store.close()
        with Store.open(root, own=True) as again:
            store = again
            for act in (store.list, store.verify, lambda: store.path(SMALL.artifact), lambda: store.lookup(SMALL.name)):
                try:
                    act()
                except PrestageError as exc:
                    assert not isinstance(exc, Busy)
                    assert "\n" not in str(exc)
            stage(store, SMALL, Steps())
            assert is_whole(store, SMALL)
            assert store.verify().bad == []
            assert store.lookup(SMALL.name) == SMALL.artifact


@given(name=st.text(alphabet="0123456789abcdef.-xyz/", max_size=70))
def test_what_is_no_artifact_is_refused_by_name(name: str) -> None:
    with a_store() as store, pytest.raises((Misconfigured, NotFound)):
        store.lookup(f"sha256:{name}")


def test_an_artifact_that_was_never_here_is_a_miss_everywhere() -> None:
    unknown = ArtifactId("sha256:" + "f" * 64)
    model = Model({"x": b"x"})
    with a_store() as store:
        for act in (store.manifest, store.path, store.state, store.missing, store.publish_view, store.evict, store.verify):
            with pytest.raises(NotFound):
                act(unknown)
        with pytest.raises(NotFound):
            store.reserve(1, artifact=model.artifact)
        assert store.binding(unknown) == {}
        assert store.unpin(unknown) == 0
