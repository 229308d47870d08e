"""Folders, indices and shards: what belongs together is read, what does not is refused and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import bytes_tensors

from prestage.loader import CorruptFile, InvalidCheckpoint, InvalidFile, Unsupported
from prestage.loader.checkpoint import chosen, index_of, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2):
        (tmp_path / f"s{number}.safetensors").write_bytes(bytes_tensors({f"t{number}": 100 * number}))
    index(tmp_path, {"t1": "s1.safetensors", "t2": "s2.safetensors"})
    return tmp_path


def index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 300}, "weight_map": weight_map}))


def test_a_folder_an_index_and_a_file_are_all_checkpoints(folder: Path) -> None:
    assert list(read(str(folder)).places) == ["t1", "t2"]
    assert list(read(str(folder / "model.safetensors.index.json")).places) == ["t1", "t2"]
    assert list(read(str(folder / "s2.safetensors")).places) == ["t2"]
    assert read(str(folder)).name == folder.name


def test_without_an_index_the_usual_file_wins_else_all_are_shards(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert list(read(str(folder)).places) == ["t1", "t2"]
    (folder / "model.safetensors").write_bytes(bytes_tensors({"whole": 5}))
    assert list(read(str(folder)).places) == ["whole"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.safetensors.index.json", "x.safetensors"], ("a.safetensors.index.json", [])),
        (["model.safetensors.index.json", "model.fp16.safetensors.index.json"], ("model.safetensors.index.json", [])),
        (["b.safetensors", "a.safetensors", "c.bin"], (None, ["a.safetensors", "b.safetensors"])),
    ],
)
def test_what_to_load_follows_from_the_names(names: list[str], found: tuple[str | None, list[str]]) -> None:
    assert chosen(names) == found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.safetensors.index.json", "b.safetensors.index.json"], "several indices: 'a.*'b"),
        (["c.bin"], r"no \*.safetensors"),
        ([], r"no \*.safetensors"),
    ],
)
def test_names_that_leave_a_choice_or_nothing_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=said):
        chosen(names)


def test_shards_in_subfolders_are_told_apart_by_the_indexs_own_names(tmp_path: Path) -> None:
    for number, sub in enumerate(("a", "b")):
        (tmp_path / sub).mkdir()
        (tmp_path / sub / "m.safetensors").write_bytes(bytes_tensors({f"t{number}": 100}))
    index(tmp_path, {"t0": "a/m.safetensors", "t1": "b/m.safetensors"})
    found = read(str(tmp_path))
    assert [shard.path for shard in found.shards] == [str(tmp_path / sub / "m.safetensors") for sub in ("a", "b")]
    assert {name: number for name, (number, _) in found.places.items()} == {"t0": 0, "t1": 1}
    index(tmp_path, {"t0": "a/m.safetensors", "t1": "a/m.safetensors", "t2": "b/m.safetensors"})
    with pytest.raises(InvalidCheckpoint, match=r"'t1' is in 'a/m.safetensors', but it is in 'b/m.safetensors'"):
        read(str(tmp_path))


def test_an_index_without_its_file_names_both(folder: Path) -> None:
    (folder / "s2.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match=r"model.safetensors.index.json' names 1 file not there, first 's2.safetensors'"):
        read(str(folder))


def test_a_tensor_that_the_index_promises_and_no_shard_holds_is_named(folder: Path) -> None:
    index(folder, {"t1": "s1.safetensors", "t2": "s2.safetensors", "t3": "s1.safetensors"})
    with pytest.raises(InvalidCheckpoint, match=r"'t3' is in 's1.safetensors', but no file holds it"):
        read(str(folder))


def test_a_tensor_that_only_a_shard_knows_is_loaded_all_the_same(folder: Path) -> None:
    (folder / "s2.safetensors").write_bytes(bytes_tensors({"t2": 5, "extra": 6}))
    assert list(read(str(folder)).places) == ["t1", "t2", "extra"]


def test_one_name_in_two_shards_names_both(folder: Path) -> None:
    (folder / "s2.safetensors").write_bytes(bytes_tensors({"t2": 5, "t1": 6}))
    with pytest.raises(InvalidCheckpoint, match=r"'t1' is in two files: 's1.safetensors' and 's2.safetensors'"):
        read(str(folder))


@pytest.mark.parametrize("file", ["../s1.safetensors", "/etc/passwd", "", 3, "a/../../b", "s1\0.safetensors"])
def test_an_index_that_leads_out_of_its_folder_is_refused(folder: Path, file: object) -> None:
    index(folder, {"t1": file})
    with pytest.raises(InvalidCheckpoint, match=r"which is no file beside it"):
        read(str(folder))


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_are_an_index_or_refused(raw: bytes) -> None:
    try:
        found = index_of(raw)
    except InvalidCheckpoint:
        return
    assert found
    assert all(isinstance(file, str) for file in found.values())


def test_a_damaged_shard_is_named_with_its_path(folder: Path) -> None:
    (folder / "s2.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InvalidFile, match=r"s2.safetensors'.*header too large"):
        read(str(folder))


def test_a_long_header_is_read_whole(tmp_path: Path) -> None:
    sizes = {f"model.layers.{number}.weight": 8 for number in range(500)}
    (tmp_path / "model.safetensors").write_bytes(bytes_tensors(sizes))
    assert list(read(str(tmp_path)).places) == list(sizes)


def test_missing_paths_raise_the_systems_own_errors(tmp_path: Path) -> None:
    for verify in ("auto", "require", "off"):
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path / "absent"), verify)
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "absent.safetensors.index.json"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(OSError, match="not a regular file"):
        read(str(tmp_path))
    with pytest.raises(Unsupported, match="verify"):
        read(str(tmp_path), "sometimes")


def test_wrong_sizes_are_corrupt_where_there_are_sums(folder: Path) -> None:
    (folder / ".prestage").mkdir()
    sums = {"format": 1, "artifact": "sha256:" + "0" * 64, "algorithm": "xxh3-128", "chunk_bytes": 4096}
    files = {f"s{number}.safetensors": {"size": 10, "chunks": "0" * 32} for number in (1, 2)}
    (folder / ".prestage" / "sums").write_text(json.dumps({**sums, "files": files}))
    with pytest.raises(CorruptFile, match="instead of 10"):
        read(str(folder))
