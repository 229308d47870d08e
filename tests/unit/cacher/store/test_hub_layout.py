"""The Hugging Face layout as pure values: names, links, what goes together and what does not."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.making import blob_of, sha256

from prestage.cacher.digests import ArtifactId, Digest, hex_of
from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.store.composing import Part, Plan, check_parts, leaves_of, parse_record, record
from prestage.cacher.store.holds import HoldId, Mount
from prestage.cacher.store.hub_layout import Leaves, Revision, check_repository, lay_out, repository_of
from prestage.cacher.store.sums import Content

COMMIT = "c" * 40
DATA = b"weights"


def git_sha1(data: bytes) -> Digest:
    return Digest("git-sha1:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


def manifest(*paths: str, authority: str = "hf:https://hub.test/org/name", revision: str | None = COMMIT) -> Manifest:
    files = [FileEntry(path, len(path), digest=sha256(path.encode()) if "." in path else None) for path in paths]
    return manifest_of(authority, "", files, revision=revision)


def revision(made: Manifest, *, repo: str = "org/name", name: str | None = None) -> Revision:
    return Revision(repo, made, {file.path: blob_of(file.path.encode()) for file in made.files}, name)


def content(made: Manifest) -> Content:
    binding = {file.path: blob_of(file.path.encode()) for file in made.files}
    return Content(made, binding, {blob_of(file.path.encode()): (file.size_bytes, b"\0" * 16) for file in made.files})


def test_files_of_git_and_of_lfs_are_named_as_the_hub_names_them() -> None:
    files = [FileEntry("a.json", 2, digest=git_sha1(b"{}")), FileEntry("w.safetensors", len(DATA), digest=sha256(DATA))]
    leaves = lay_out([revision(manifest_of("hf:https://hub.test/org/name", "", files, revision=COMMIT))])
    top = "models--org--name"
    assert set(leaves.links) == {f"{top}/blobs/{hex_of(file.digest or '')}" for file in files}
    assert leaves.symlinks[f"{top}/snapshots/{COMMIT}/a.json"] == f"../../blobs/{hex_of(git_sha1(b'{}'))}"
    listed = json.loads(leaves.files[f"{top}/trees/{COMMIT}.json"])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid {sha256(DATA)}\nsize {len(DATA)}\n".encode()
    assert listed["files"]["w.safetensors"] == {
        "size": len(DATA),
        "blob_id": hex_of(git_sha1(pointer)),
        "lfs_sha256": hex_of(sha256(DATA)),
        "lfs_size": len(DATA),
    }
    assert listed["files"]["a.json"] == {"size": 2, "blob_id": hex_of(git_sha1(b"{}"))}


def test_what_did_not_come_from_a_hub_gets_names_that_cannot_be_mistaken() -> None:
    made = manifest("nodigest", authority="s3:bucket", revision=None)
    leaves = lay_out([revision(made, repo="mine")])
    commit = hex_of(made.artifact)[:40]
    assert leaves.files["models--mine/refs/main"].decode() == commit
    assert list(leaves.links) == [f"models--mine/blobs/blake3-tree-{hex_of(blob_of(b'nodigest'))}"]
    assert f"models--mine/snapshots/{commit}/nodigest" in leaves.symlinks


def test_main_is_the_revision_of_that_name_else_the_first() -> None:
    one, other = manifest("a.1", revision="1" * 40), manifest("a.2", revision="2" * 40)

    def main(*revisions: Revision) -> str:
        return lay_out(revisions).files["models--org--name/refs/main"].decode()[0]

    assert main(revision(one, name="v1"), revision(other, name="main")) == "2"
    assert main(revision(other, name="main"), revision(one, name="v1")) == "2"
    assert main(revision(one, name="v1"), revision(other, name="v2")) == "1"
    assert main(revision(other), revision(one, name="v1")) == "2"


def test_a_commit_is_no_name_of_a_revision() -> None:
    leaves = lay_out([revision(manifest("a.1"), name=COMMIT)])
    assert [name for name in leaves.files if "/refs/" in name] == ["models--org--name/refs/main"]


def test_two_selections_of_one_commit_are_one_snapshot() -> None:
    parts = [Part(name, made.artifact, "org/name", "main") for name, made in (("a", manifest("a.1")), ("b", manifest("b.1")))]
    made = {parts[0].artifact: content(manifest("a.1")), parts[1].artifact: content(manifest("b.1"))}
    leaves = leaves_of(HoldId("pin-1"), Plan(tuple(parts)), made)
    top = ".hf/models--org--name"
    assert json.loads(leaves.files[f"{top}/trees/{COMMIT}.json"])["files"].keys() == {"a.1", "b.1"}
    sums = json.loads(leaves.files[f"{top}/.prestage/sums"])
    assert sums["artifact"] == parts[0].artifact
    assert "artifact" not in sums["files"][f"snapshots/{COMMIT}/a.1"]
    assert sums["files"][f"snapshots/{COMMIT}/b.1"]["artifact"] == parts[1].artifact


@pytest.mark.parametrize("names", [("main", "main"), ("v", "v/1"), ("v/1", "v"), ("a/b", "a/b/c")])
def test_revisions_that_cannot_both_be_named_so_are_refused(names: tuple[str, str]) -> None:
    one, other = manifest("a.1", revision="1" * 40), manifest("a.2", revision="2" * 40)
    with pytest.raises(Misconfigured):
        lay_out([revision(one, name=names[0]), revision(other, name=names[1])])


@pytest.mark.parametrize("repo", ["org/name", "name", "a-b.c_d/e.f-g", "1/2", "_x/y_"])
def test_names_of_repositories(repo: str) -> None:
    check_repository(repo)


@pytest.mark.parametrize(
    "repo", ["", "a/b/c", "../x", "a--b", "a/..", ".a/b", "a-/b", "a/b.git", "a b", "a/" + "x" * 97, "/a", "é"]
)
def test_names_that_are_none(repo: str) -> None:
    with pytest.raises(Misconfigured):
        check_repository(repo)
    with pytest.raises(Misconfigured):
        check_parts([Part("name", ArtifactId("sha256:" + "a" * 64), repo)])


def test_the_repository_of_an_artifact_is_read_off_where_it_came_from() -> None:
    assert repository_of(manifest("a", authority="hf:https://mirror.corp:8443/hub/org/name")) == "org/name"
    assert repository_of(manifest("a", authority="s3:bucket")) is None


@pytest.mark.parametrize("revision", ["../up", "/etc", "a//b", "a/../b", "", "a\nb", "x" * 300])
@pytest.mark.parametrize("name", ["fine", "../x", ".hf", "", "a/b", "x" * 65])
def test_parts_that_do_not_make_a_tree_are_refused(revision: str, name: str) -> None:
    with pytest.raises(Misconfigured):
        check_parts([Part(name, ArtifactId("sha256:" + "a" * 64), "org/name", revision)])
    with pytest.raises(Misconfigured):
        check_parts([])
    with pytest.raises(Misconfigured, match="two parts"):
        check_parts([Part("a", ArtifactId("sha256:" + "a" * 64))] * 2)


_PATHS = st.lists(
    st.lists(st.from_regex(re.compile(r"[a-z0-9.]{1,6}", re.ASCII), fullmatch=True), min_size=1, max_size=5).map("/".join),
    min_size=1,
    max_size=8,
)


@given(_PATHS, st.sampled_from([None, "main", "feature/x/y"]), st.booleans())
def test_no_symlink_leaves_the_tree_and_each_leads_to_a_blob(paths: list[str], name: str | None, hub: bool) -> None:
    try:
        made = manifest(*paths, authority="hf:https://hub.test/org/name" if hub else "file:/x", revision=COMMIT if hub else None)
    except Misconfigured:
        return
    part = Part("model", made.artifact, "org/name", name)
    leaves = leaves_of(HoldId("pin-1"), Plan((part,)), {part.artifact: content(made)})
    assert_sound(leaves)
    shown = {path.split("/", 4)[4] for path in leaves.symlinks}
    assert shown == {file.path for file in made.files}


def assert_sound(leaves: Leaves) -> None:
    everything = {*leaves.links, *leaves.symlinks, *leaves.files}
    assert len(everything) == len(leaves.links) + len(leaves.symlinks) + len(leaves.files)
    for path in everything:
        assert not any(path.startswith(f"{other}/") for other in everything), "a file is a folder too"
    for path, target in leaves.symlinks.items():
        assert not target.startswith("/")
        assert os.path.normpath(Path(path).parent / target) in leaves.links


def test_a_record_is_read_as_it_was_written() -> None:
    parts = [Part("a", ArtifactId("sha256:" + "a" * 64), "org/name", "v1"), Part("b", ArtifactId("sha256:" + "b" * 64))]
    for plan in (
        Plan(tuple(parts)),
        Plan(tuple(parts), Mount("uid", "/var/lib/kubelet/pods/uid/volumes/it/mount", "/models")),
        Plan(tuple(parts[:1]), Mount("uid", "/target"), is_flat=True),
    ):
        assert parse_record(record(HoldId("pin-1"), plan)) == plan
    assert parse_record(record(HoldId("pin-1"), Plan(tuple(parts), is_flat=True))) is None


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=4).map(json.dumps).map(str.encode)
)
def test_a_damaged_record_is_no_record(raw: bytes) -> None:
    assert parse_record(raw) is None


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"name": 3, "artifact": "sha256:" + "a" * 64},
        {"name": "a", "artifact": "sha256:x"},
        {"name": "..", "artifact": ""},
        [],
    ],
)
def test_a_record_with_a_part_that_is_none_is_no_record(part: object) -> None:
    assert parse_record(json.dumps({"format": 1, "hold": "pin-1", "parts": [part]}).encode()) is None
