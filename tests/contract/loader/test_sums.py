"""The sums that the store writes are the sums that the loader checks: one recorded file, both sides."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from loading import data_start, encode, entry

from prestage.cacher.digests import CHUNK_BYTES, chunk_sum
from prestage.loader import CorruptFile, last_report
from prestage.loader.numpy import load_file
from prestage.loader.sums import find

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "sums.json"
SIZE = 9 << 20


def content() -> bytes:
    """What the recorded sums are the sums of: two whole chunks and a short one."""
    return encode({"a": entry("U8", [SIZE], 0, SIZE)}, random.Random(20261125).randbytes(SIZE))


@pytest.fixture
def view(tmp_path: Path) -> Path:
    folder, side = tmp_path / "views" / "current", tmp_path / "views" / ".prestage" / "current"
    folder.mkdir(parents=True)
    side.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content())
    (side / "sums").write_bytes(RECORDED.read_bytes())
    return folder


def test_the_cacher_gives_the_recorded_chunks() -> None:
    recorded = json.loads(RECORDED.read_text())
    data = content()
    chunks = b"".join(chunk_sum(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
    assert recorded["chunk_bytes"] == CHUNK_BYTES
    assert recorded["files"]["model.safetensors"] == {"size": len(data), "chunks": chunks.hex()}


def test_the_loader_verifies_by_the_recorded_chunks(view: Path) -> None:
    array = load_file(view / "model.safetensors", verify="require")["a"]
    report = last_report()
    assert report is not None
    assert report["verified_bytes"] == report["bytes"] == len(content())
    assert array.tobytes() == content()[data_start(content()) :]


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_loader_refuses_a_wrong_byte_in_each_recorded_chunk(view: Path, chunk: int) -> None:
    with open(view / "model.safetensors", "r+b") as file:
        file.seek(chunk * CHUNK_BYTES + 4000)
        file.write(b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09")
    with pytest.raises(CorruptFile) as caught:
        load_file(view / "model.safetensors")
    assert caught.value.start == chunk * CHUNK_BYTES


def test_the_recorded_sums_are_found_where_the_format_says(view: Path) -> None:
    sums = find(str(view / "model.safetensors"))
    assert sums is not None
    assert len(sums.digests) == 48
