"""What the local origin says about a repository, and how its link shares."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from pathlib import Path

import pytest

from prestage.bench.origin.catalog import read_repository
from prestage.bench.origin.link import Link
from prestage.bench.origin.server import _span


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "model.safetensors").write_bytes(b"weights")
    return root


def test_weights_are_lfs_files_named_by_their_sha256(folder: Path) -> None:
    entry = read_repository("org/name", folder).entries["sub/model.safetensors"]
    assert entry.is_lfs
    assert entry.etag == f'"{hashlib.sha256(b"weights").hexdigest()}"'


def test_small_files_have_the_oid_that_git_gives_them(folder: Path) -> None:
    entry = read_repository("org/name", folder).entries["config.json"]
    by_git = subprocess.run(["git", "hash-object", str(folder / "config.json")], capture_output=True, text=True, check=True)
    assert entry.git_oid == by_git.stdout.strip()
    assert not entry.is_lfs


def test_the_commit_follows_from_the_content(folder: Path) -> None:
    before = read_repository("org/name", folder).commit
    assert read_repository("org/name", folder).commit == before
    (folder / "config.json").write_text("{ }")
    assert read_repository("org/name", folder).commit != before


def test_a_known_digest_saves_the_hashing(folder: Path) -> None:
    known = read_repository("org/name", folder, {"sub/model.safetensors": "ab" * 32})
    assert known.entries["sub/model.safetensors"].sha256 == "ab" * 32


def test_the_tree_holds_folders_and_only_the_recursive_one_their_files(folder: Path) -> None:
    repository = read_repository("org/name", folder)
    flat = {(item["type"], item["path"]) for item in repository.tree(recursive=False)}
    deep = {(item["type"], item["path"]) for item in repository.tree(recursive=True)}
    assert flat == {("file", "config.json"), ("directory", "sub")}
    assert deep == flat | {("file", "sub/model.safetensors")}


@pytest.mark.parametrize(
    ("first", "last", "span"), [("0", "9", (0, 10)), ("5", "", (5, 100)), ("", "7", (93, 100)), ("90", "500", (90, 100))]
)
def test_byte_ranges_are_read_as_http_means_them(first: str, last: str, span: tuple[int, int]) -> None:
    assert _span(first, last, 100) == span


def test_the_link_is_shared_and_not_given_to_each() -> None:
    link = Link(1_000_000)

    def send() -> None:
        for _ in range(5):
            link.send(10_000)

    senders = [threading.Thread(target=send) for _ in range(4)]
    began = time.monotonic()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    # 200 kB at 1 MB/s: no faster than the link, whatever the number of connections
    assert time.monotonic() - began >= 0.19


def test_a_link_without_a_rate_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it slept"))
    Link(None).send(10**12)
    assert Link(None)._free_at == 0.0
