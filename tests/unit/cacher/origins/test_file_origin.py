"""file://: what of a directory is staged, and what is refused by name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from prestage.cacher.errors import Bug, Denied, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.ports import FileRead, Next, Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import FileRef
from prestage.cacher.transfer.ports import Changed, Fatal

ALL = Selection()


def resolved(path: Path, selection: Selection = ALL) -> Manifest:
    return FileOrigin(FileRef(str(path))).resolve(selection)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "sub" / "w.bin").write_bytes(b"x" * 100)
    return model


@pytest.fixture
def client() -> HttpClient:
    return HttpClient()


def test_a_directory_is_its_files_with_size_and_time(folder: Path) -> None:
    manifest = resolved(folder)
    assert manifest.authority == f"file:{folder}"
    assert [(file.path, file.size_bytes) for file in manifest.files] == [("config.json", 2), ("sub/w.bin", 100)]
    assert manifest.files[0].modified == str((folder / "config.json").stat().st_mtime_ns)
    assert not manifest.is_weak


def test_a_file_is_itself(folder: Path) -> None:
    manifest = resolved(folder / "sub" / "w.bin")
    assert (manifest.authority, [file.path for file in manifest.files]) == (f"file:{folder}/sub", ["w.bin"])


def test_patterns_come_before_anything_is_looked_at(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/hostname")
    manifest = resolved(folder, Selection(exclude=("link",)))
    assert len(manifest.files) == 2
    with pytest.raises(Misconfigured, match="nothing to stage"):
        resolved(folder, Selection(include=("*.gguf",)))


LINKS = {
    "out": "/etc/hostname",
    "inside": "config.json",
    "to a directory": "sub",
    "dangling": "nowhere",
    "to itself": "link",
}


@pytest.mark.parametrize("case", LINKS)
def test_symlinks_are_refused_and_named(case: str, folder: Path) -> None:
    (folder / "link").symlink_to(LINKS[case])
    with pytest.raises(PrestageError, match="link") as refused:
        resolved(folder)
    assert isinstance(refused.value, Misconfigured)
    assert refused.value.hint


def test_sockets_and_pipes_are_refused_and_named(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(Misconfigured, match=r"fifo' is a pipe"):
        resolved(folder)
    (folder / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "sock"))
        with pytest.raises(Misconfigured, match=r"sock' is a socket"):
            resolved(folder)


def snapshot(tmp_path: Path) -> Path:
    """A cache as huggingface_hub leaves it, one file of it in the store that hf_xet shares."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    folder = repository / "snapshots" / ("0" * 40)
    for made in (folder / "sub", repository / "blobs", cache / "blobs" / "ab"):
        made.mkdir(parents=True)
    (repository / "blobs" / "etag1").write_bytes(b"config")
    (cache / "blobs" / "ab" / "abcdef").write_bytes(b"weights")
    (repository / "blobs" / "etag2").symlink_to("../../blobs/ab/abcdef")
    (folder / "config.json").symlink_to("../../blobs/etag1")
    (folder / "sub" / "model.safetensors").symlink_to("../../../blobs/etag2")
    return folder


def test_a_hugging_face_snapshot_is_staged_through_its_links(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    manifest = resolved(folder)
    assert [(file.path, file.size_bytes) for file in manifest.files] == [("config.json", 6), ("sub/model.safetensors", 7)]
    read = FileOrigin(FileRef(str(folder))).request(manifest, manifest.files[1])
    assert read.path == str(tmp_path / "hub" / "blobs" / "ab" / "abcdef")


def test_a_link_of_a_snapshot_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    other = tmp_path / "hub" / "models--other--private" / "blobs"
    other.mkdir(parents=True)
    (other / "secret").write_text("x")
    (folder / "secret").symlink_to("../../../models--other--private/blobs/secret")
    with pytest.raises(Misconfigured, match="secret"):
        resolved(folder)


def test_a_file_that_became_a_link_after_it_was_resolved_is_not_read(folder: Path) -> None:
    origin = FileOrigin(FileRef(str(folder)))
    manifest = origin.resolve(ALL)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(Misconfigured, match="symlink"):
        origin.request(manifest, manifest.files[0])


def test_a_file_that_changes_is_noticed_before_and_while_it_is_read(folder: Path, client: HttpClient) -> None:
    origin = FileOrigin(FileRef(str(folder)))
    manifest = origin.resolve(ALL)
    file = manifest.files[1]
    source = OriginSource(origin, client, manifest, file, "lane")
    stream = source.open(0, 100)
    buffer = memoryview(bytearray(50))
    assert stream.readinto(buffer) == 50
    (folder / "sub" / "w.bin").write_bytes(b"y" * 100)
    with pytest.raises(Changed):
        stream.readinto(buffer)
    stream.close()
    with pytest.raises(Changed):
        source.open(0, 100)
    (folder / "sub" / "w.bin").unlink()
    with pytest.raises(Fatal) as gone:
        source.open(0, 100)
    assert isinstance(gone.value.error, NotFound)


def test_what_is_not_there_is_a_miss(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no/such"):
        resolved(tmp_path / "no" / "such")
    with pytest.raises(NotFound, match="such"):
        resolved(tmp_path / "such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="empty"):
        resolved(tmp_path / "empty")


def test_unreadable_files_are_denied_by_whom_and_how_to_cure_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(Denied, match=f"config.json.*user {os.geteuid()}"):
        resolved(folder)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\\b", b"line\nbreak", b".prestage"])
def test_names_that_must_not_be_written_are_refused(name: bytes, folder: Path) -> None:
    with open(os.fsencode(folder) + b"/" + name, "wb"):
        pass
    with pytest.raises(Misconfigured, match="file name"):
        resolved(folder)


def test_a_deep_tree_is_walked(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    assert resolved(tmp_path).files[0].path == "d/" * 200 + "f"


def test_an_http_answer_to_a_local_file_is_our_own_fault(folder: Path) -> None:
    verdict = FileOrigin(FileRef(str(folder))).judge(FileEntry("f", 1), ResponseHead(404, {}), b"")
    assert (verdict.next, type(verdict.error)) == (Next.FATAL, Bug)


def test_the_registry_opens_it(folder: Path, client: HttpClient) -> None:
    origin = open_origin(FileRef(str(folder)), client=client, environ={})
    manifest = origin.resolve(ALL)
    assert isinstance(origin.request(manifest, manifest.files[0]), FileRead)
