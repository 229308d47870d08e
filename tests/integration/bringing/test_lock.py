"""`prestage lock` against a hub whose branch moves on, and a directory that changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bringing import read_folder, write_folder
from commands import Prestage

from servers.hub import Hub

FILES = {"config.json": b'{"v": 1}', "model.safetensors": b"weights" * 1000}
REF = "hf://org/model@main"


@pytest.fixture
def offered(prestage: Prestage, hub: Hub) -> Prestage:
    write_folder(hub.root / "org" / "model", FILES)
    hub.reload()
    return replace(prestage, env={**prestage.env, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(prestage.root.parent / "hf")})


@pytest.fixture
def lock(offered: Prestage, tmp_path: Path) -> str:
    path = str(tmp_path / "prestage.lock")
    locked = offered("lock", REF, "--file", path)
    assert locked.code == 0, locked.err
    return path


def move_on(hub: Hub) -> None:
    """A new commit of main; the hub still has the one before."""
    write_folder(hub.root / "org" / "model" / "was", FILES)
    (hub.root / "org" / "model" / ".hub.json").write_text('{"branches": {"was": "was"}}')
    (hub.root / "org" / "model" / "config.json").write_bytes(b'{"v": 2}')
    hub.reload()


def test_what_was_locked_is_staged_although_the_branch_moved_on(offered: Prestage, hub: Hub, lock: str) -> None:
    move_on(hub)
    staged = offered("stage", "--lock", lock, "--json")
    assert staged.code == 0, staged.err
    assert read_folder(Path(staged.last["path"])) == FILES
    assert offered("path", REF).out.strip() == staged.last["path"]


def test_check_says_what_moved_with_its_exit_code(offered: Prestage, hub: Hub, lock: str) -> None:
    same = offered("lock", "--check", "--file", lock)
    assert same.code == 0, same.err
    move_on(hub)
    before = Path(lock).read_text()
    moved = offered("lock", "--check", "--file", lock)
    assert moved.code == 3
    assert REF in moved.out
    assert hub.commit("org/model") in moved.out
    assert Path(lock).read_text() == before
    assert offered("lock", "--file", lock).code == 0
    assert offered("lock", "--check", "--file", lock).code == 0
    assert Path(lock).read_text() != before


def test_what_is_here_is_staged_again_without_the_origin(offered: Prestage, hub: Hub, lock: str) -> None:
    assert offered("stage", "--lock", lock).code == 0
    asked = len(hub.log)
    again = offered("stage", "model", "--lock", lock, "--json")
    assert again.code == 0, again.err
    assert again.last["bytes_by_source"] == {"store": sum(map(len, FILES.values()))}
    assert len(hub.log) == asked


def test_what_its_origin_has_no_more_is_a_miss_that_says_what_to_do(prestage: Prestage, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", FILES)
    lock = str(tmp_path / "prestage.lock")
    assert prestage("lock", folder.as_uri(), "--file", lock).code == 0
    (folder / "config.json").write_bytes(b'{"v": 22}')
    staged = prestage("stage", "--lock", lock)
    assert staged.code == 3
    assert "prestage lock" in staged.err
    assert prestage("ls", "--json").out.strip() == "[]"


def test_refs_that_are_not_named_stay_in_the_file(offered: Prestage, lock: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "other", FILES)
    assert offered("lock", folder.as_uri(), "--file", lock, "--include", "*.json").code == 0
    text = Path(lock).read_text()
    assert REF in text
    assert folder.as_uri() in text
    assert offered("stage", "--lock", lock, "--json").code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["stage"], 2),
        (["stage", "x", "--lock", "nowhere"], 3),
        (["lock", "--file", "nowhere"], 3),
        (["lock", "--check", "--file", "nowhere"], 3),
    ],
)
def test_what_is_missing_is_told(words: list[str], code: int, prestage: Prestage) -> None:
    assert prestage(*words).code == code
