"""Adopting what lies on this machine: what becomes of it, and what of the source."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bringing import COMMIT, HUB, adopting, hub_cache, read_folder, staging, write_folder
from stores.making import content

from prestage.cacher.adopting import Adopted
from prestage.cacher.errors import Busy, Corrupt, Full, Misconfigured, NotFound
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.refs import FileRef, HfRef, parse_ref
from prestage.cacher.staging import Watcher, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.ports import Cancelled

FILES = {
    "config.json": b'{"a": 1}',
    "deep/er/model.safetensors": content(70_001, "w"),
    "empty.txt": b"",
    "model [1].safetensors": content(9, "odd name"),
}
PLACES = [pytest.param(True, id="moved"), pytest.param(False, id="not moved")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", own=True) as opened:
        yield opened


def adopt(store: Store, path: Path, *, ref: str | None = None, take: bool = False) -> Adopted:
    named = parse_ref(ref) if ref else None
    assert named is None or isinstance(named, HfRef)
    with adopting(store) as adopter:
        return adopter.adopt(path, ref=named, take=take)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", FILES)


def test_a_directory_becomes_the_artifact_that_a_stage_of_it_makes_and_stays_as_it_is(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    before = {path: path.stat() for path in folder.rglob("*")}
    adopted = adopt(store, folder)
    assert read_folder(adopted.staged.path) == FILES
    assert {path: path.stat() for path in folder.rglob("*")} == before or _only_atime_differs(before, folder)
    assert adopted.ref == folder.as_uri()
    with Store.open(tmp_path / "other", own=True) as other, staging(other) as stager:
        ref = FileRef(str(folder))
        assert stager.stage(Wish(ref), FileOrigin(ref)).artifact == adopted.staged.artifact


def _only_atime_differs(before: dict[Path, os.stat_result], folder: Path) -> bool:
    def kept(status: os.stat_result) -> tuple[int, ...]:
        return (status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    return all(kept(path.stat()) == kept(before[path]) for path in folder.rglob("*"))


def test_what_is_adopted_shares_no_inode_with_its_source(store: Store, folder: Path) -> None:
    adopted = adopt(store, folder)
    for path in FILES:
        assert not (adopted.staged.path / path).samefile(folder / path)
    (folder / "config.json").write_bytes(b'{"a": 2}')
    assert read_folder(adopted.staged.path) == FILES


def test_a_single_file_is_adopted(store: Store, folder: Path) -> None:
    adopted = adopt(store, folder / "config.json")
    assert read_folder(adopted.staged.path) == {"config.json": FILES["config.json"]}


@pytest.mark.parametrize("take", PLACES)
def test_a_whole_cache_becomes_the_hub_s_artifact(take: bool, store: Store, tmp_path: Path) -> None:
    repository = hub_cache(tmp_path / "hub", FILES, listed=FILES)
    adopted = adopt(store, repository, take=take)
    manifest = store.manifest(adopted.staged.artifact)
    assert (manifest.authority, manifest.revision) == (f"hf:{HUB}/org/name", COMMIT)
    assert adopted.ref == "hf://org/name@main"
    assert store.lookup("hf://org/name@main") == adopted.staged.artifact
    assert read_folder(adopted.staged.path) == FILES
    assert adopted.notes == ()
    assert bool(list((repository / "blobs").iterdir())) is not take


def test_a_part_of_a_revision_is_remembered_by_its_patterns_and_says_so(store: Store, tmp_path: Path) -> None:
    listed = {**FILES, "more.safetensors": b"elsewhere"}
    adopted = adopt(store, hub_cache(tmp_path / "hub", FILES, listed=listed))
    assert "a part of hf://org/name@main" in adopted.notes[0]
    assert read_folder(adopted.staged.path) == FILES
    known = next(iter(store._parts.artifacts.refs()))
    assert "model [[]1].safetensors" in known.include


def test_without_a_listing_the_names_of_the_blobs_state_their_digests(store: Store, tmp_path: Path) -> None:
    adopted = adopt(store, hub_cache(tmp_path / "hub", FILES))
    digests = {file.path: file.digest or "" for file in store.manifest(adopted.staged.artifact).files}
    assert digests["config.json"].startswith("git-sha1:")
    assert digests["deep/er/model.safetensors"].startswith("sha256:")
    assert store.manifest(adopted.staged.artifact).authority == f"hf:{HUB}/org/name"


def test_a_cache_that_states_no_digests_is_adopted_as_files_and_says_so(store: Store, tmp_path: Path) -> None:
    repository = hub_cache(tmp_path / "hub", {})
    write_folder(repository / "snapshots" / COMMIT, {"config.json": b"{}"})
    adopted = adopt(store, repository)
    assert adopted.ref == (repository / "snapshots" / COMMIT).as_uri()
    assert "adopted as file://" in adopted.notes[0]
    with pytest.raises(Misconfigured, match="digest"):
        adopt(store, repository, ref="hf://org/name@main")


@pytest.mark.parametrize("listed", [True, False], ids=["by the listing", "by the blob's name"])
def test_a_damaged_cache_publishes_nothing(listed: bool, store: Store, tmp_path: Path) -> None:
    repository = hub_cache(tmp_path / "hub", FILES, listed=FILES if listed else None)
    blob = (repository / "snapshots" / COMMIT / "deep/er/model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[5000] ^= 1
    blob.write_bytes(data)
    with pytest.raises(Corrupt, match="sha256:") as caught:
        adopt(store, repository)
    assert "damaged" in (caught.value.hint or "")
    with pytest.raises(NotFound):
        store.lookup("hf://org/name@main")
    with pytest.raises(Corrupt):
        adopt(store, repository, take=True)
    assert blob.read_bytes() == data
    assert list((store.root / "ingest").iterdir()) == []


@pytest.mark.parametrize(
    ("ref", "error", "says"),
    [
        ("hf://org/name@nothing", NotFound, "it knows: main"),
        ("hf://org/other@main", Misconfigured, "org/name"),
        (f"hf://org/name@{'d' * 40}", NotFound, "no snapshot"),
    ],
)
def test_a_revision_that_the_cache_lacks_is_a_miss(
    ref: str, error: type[Exception], says: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        adopt(store, hub_cache(tmp_path / "hub", FILES, listed=FILES), ref=ref)


def test_among_several_revisions_one_must_be_named(store: Store, tmp_path: Path) -> None:
    hub_cache(tmp_path / "hub", FILES, listed=FILES, revision="v1")
    other = {**FILES, "config.json": b"{}"}
    repository = hub_cache(tmp_path / "hub", other, listed=other, revision="v2", commit="d" * 40)
    with pytest.raises(Misconfigured, match="several revisions"):
        adopt(store, repository)
    assert read_folder(adopt(store, repository, ref="hf://org/name@v2").staged.path) == other
    assert read_folder(adopt(store, repository / "snapshots" / COMMIT).staged.path) == FILES


def test_a_ref_for_what_is_no_cache_is_refused(store: Store, folder: Path) -> None:
    with pytest.raises(Misconfigured, match="no Hugging Face cache"):
        adopt(store, folder, ref="hf://org/name@main")


def test_taking_moves_the_very_files_in_and_leaves_nothing(store: Store, folder: Path) -> None:
    inode = (folder / "config.json").stat().st_ino
    adopted = adopt(store, folder, take=True)
    assert adopted.taken == len(FILES)
    assert not folder.exists()
    assert read_folder(adopted.staged.path) == FILES
    status = (adopted.staged.path / "config.json").stat()
    assert status.st_ino == inode
    assert status.st_mode & 0o777 == 0o444
    assert store.list()[0].holds == []


def test_taking_after_adopting_takes_the_names_away(store: Store, folder: Path) -> None:
    adopt(store, folder)
    adopted = adopt(store, folder, take=True)
    assert not folder.exists()
    assert read_folder(adopted.staged.path) == FILES


def test_a_file_with_another_name_is_not_taken(store: Store, folder: Path, tmp_path: Path) -> None:
    os.link(folder / "config.json", tmp_path / "elsewhere")
    with pytest.raises(Busy, match="2 names") as caught:
        adopt(store, folder, take=True)
    assert "without --take" in (caught.value.hint or "")
    assert read_folder(folder) == FILES


def test_a_file_that_is_open_for_writing_is_not_taken_one_that_is_read_is(store: Store, folder: Path) -> None:
    with (folder / "config.json").open("r+b"), pytest.raises(Busy, match="open for writing"):
        adopt(store, folder, take=True)
    assert read_folder(folder) == FILES
    with (folder / "config.json").open("rb") as reader:
        adopt(store, folder, take=True)
        assert reader.read() == FILES["config.json"]


def test_what_another_snapshot_needs_stays_where_it_is(store: Store, tmp_path: Path) -> None:
    hub_cache(tmp_path / "hub", FILES, listed=FILES)
    other = {"config.json": FILES["config.json"], "model.safetensors": b"v2"}
    repository = hub_cache(tmp_path / "hub", other, listed=other, revision="v2", commit="d" * 40)
    adopted = adopt(store, repository, ref="hf://org/name@main", take=True)
    assert any("config.json" in note for note in adopted.notes)
    assert read_folder(repository / "snapshots" / ("d" * 40)) == other
    assert read_folder(adopted.staged.path) == FILES
    assert adopted.taken == len(FILES) - 1


def test_an_artifact_that_does_not_fit_the_budget_is_refused_whole(tmp_path: Path, folder: Path) -> None:
    with Store.open(tmp_path / "small", own=True, budget_bytes=50_000) as store:
        for take in (False, True):
            with pytest.raises(Full):
                adopt(store, folder, take=take)
            assert store.list() == []
    assert read_folder(folder) == FILES


class CallingOff(Watcher):
    """Ends a stage when all bytes were looked at; whether they are published by then is a race."""

    def verifying(self) -> None:
        raise Cancelled


def test_taking_that_is_called_off_takes_no_name_away(store: Store, folder: Path) -> None:
    with adopting(store) as adopter, pytest.raises(Cancelled):
        adopter.adopt(folder, take=True, watcher=CallingOff())
    assert read_folder(folder) == FILES
    if not any(row.state == "staged" for row in store.list()):
        assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}
    assert adopt(store, folder, take=True).taken == len(FILES)


class Writing(Watcher):
    """Somebody opens a file for writing once it is being taken in; the kernel keeps them waiting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: subprocess.Popen[bytes] | None = None

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        self._writer = subprocess.Popen(["sh", "-c", f"exec 3>>'{self._path}'"])
        while "lease" not in Path(f"/proc/{self._writer.pid}/wchan").read_text():
            if self._writer.poll() is not None:
                pytest.fail("the writer was not kept waiting")
            time.sleep(0.01)

    def wait(self) -> None:
        assert self._writer is not None
        self._writer.wait(60)


def test_a_writer_that_comes_meanwhile_is_noticed_and_the_files_stay(store: Store, folder: Path) -> None:
    watcher = Writing(folder / "config.json")
    with adopting(store) as adopter, pytest.raises(Busy, match=r"opened .*config\.json for writing"):
        adopter.adopt(folder, take=True, watcher=watcher)
    watcher.wait()
    assert read_folder(folder) == FILES
