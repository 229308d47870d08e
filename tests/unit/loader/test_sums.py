"""Where sums are looked for, and that damaged ones never pass for absent ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import ARTIFACT, make_view, sums_of

from prestage.loader import VerifyUnavailable
from prestage.loader.sums import find

CONTENT = bytes(range(256)) * 40


def test_sums_beside_the_view_are_found(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": CONTENT})
    found = find(view.file())
    assert found is not None
    assert (found.artifact, found.size_bytes, found.chunk_bytes, len(found.digests)) == (ARTIFACT, 10240, 4096, 48)


def test_sums_inside_the_view_are_found_first(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": CONTENT})
    (view.folder / ".prestage").mkdir()
    inside = sums_of({"model.safetensors": CONTENT}, 8192)
    (view.folder / ".prestage" / "sums").write_text(json.dumps(inside))
    found = find(view.file())
    assert found is not None
    assert found.chunk_bytes == 8192


def test_sums_of_a_file_in_a_subfolder_are_those_of_its_view(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"unet/deep/model.safetensors": CONTENT})
    found = find(view.file("unet/deep/model.safetensors"))
    assert found is not None
    assert found.size_bytes == len(CONTENT)


def test_a_relative_path_and_a_symlink_lead_to_the_same_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = make_view(tmp_path / "store", {"model.safetensors": CONTENT})
    link = tmp_path / "elsewhere" / "renamed.safetensors"
    link.parent.mkdir()
    link.symlink_to(view.file())
    assert find(str(link)) == find(view.file())
    monkeypatch.chdir(view.folder)
    assert find("model.safetensors") == find(view.file())


def test_a_file_without_sums_or_not_named_by_them_has_none(tmp_path: Path) -> None:
    view = make_view(tmp_path / "view", {"model.safetensors": CONTENT})
    (view.folder / "other.safetensors").write_bytes(CONTENT)
    (tmp_path / "plain.safetensors").write_bytes(CONTENT)
    assert find(view.file("other.safetensors")) is None
    assert find(str(tmp_path / "plain.safetensors")) is None


def test_sums_that_changed_on_disk_are_read_again(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": CONTENT})
    before = find(view.file())
    replacement = view.sums.with_name("new")
    replacement.write_text(json.dumps(sums_of({"model.safetensors": CONTENT + b"x"}, 4096)))
    replacement.rename(view.sums)
    after = find(view.file())
    assert before is not None
    assert after is not None
    assert (before.size_bytes, after.size_bytes) == (10240, 10241)


def test_sums_that_may_not_be_read_are_an_error(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": CONTENT})
    view.sums.unlink()
    view.sums.mkdir()
    with pytest.raises(VerifyUnavailable, match="cannot be read"):
        find(view.file())


def changed(**members: object) -> Callable[[dict[str, object]], None]:
    return lambda table: table.update(members)


def changed_entry(**members: object) -> Callable[[dict[str, object]], None]:
    def change(table: dict[str, object]) -> None:
        files = table["files"]
        assert isinstance(files, dict)
        files["model.safetensors"].update(members)

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed(format=2),
        changed(algorithm="crc32c"),
        changed(artifact=None),
        changed(files=[]),
        changed(chunk_bytes=0),
        changed(chunk_bytes=True),
        changed(chunk_bytes=4096.0),
        changed(chunk_bytes=1 << 40),
        changed(files={"model.safetensors": []}),
        changed_entry(size=-1),
        changed_entry(size="10240"),
        changed_entry(chunks="zz"),
        changed_entry(chunks="00" * 47),
        changed_entry(chunks=None),
        changed_entry(size=1 << 50),
    ],
)
def test_sums_that_contradict_themselves_are_an_error(tmp_path: Path, change: Callable[[dict[str, object]], None]) -> None:
    view = make_view(tmp_path, {"model.safetensors": CONTENT})
    table = json.loads(view.sums.read_text())
    change(table)
    view.sums.write_text(json.dumps(table))
    with pytest.raises(VerifyUnavailable, match="cannot be used") as caught:
        find(view.file())
    assert 'verify="off"' in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_sums_are_an_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    view = make_view(tmp_path_factory.mktemp("view"), {"model.safetensors": CONTENT})
    view.sums.write_bytes(raw)
    with pytest.raises(VerifyUnavailable):
        find(view.file())


def test_the_walk_to_the_root_ends(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 80)
    deep.mkdir(parents=True)
    (deep / "model.safetensors").write_bytes(CONTENT)
    assert find(os.fspath(deep / "model.safetensors")) is None
