"""The cached listing of a hub: what it says, and that nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import PrestageError
from prestage.cacher.origins.hub_cache import NotKnown, find_snapshot, is_hub_cache, tree_files

SHA1, SHA256 = "a" * 40, "b" * 64


def listing(**files: dict[str, object]) -> bytes:
    return json.dumps({"format_version": 1, "files": files}).encode()


def test_large_files_are_named_by_sha256_small_ones_by_git() -> None:
    found = tree_files(
        listing(big={"size": 5, "blob_id": SHA1, "lfs_sha256": SHA256, "lfs_size": 5}, small={"size": 0, "blob_id": SHA1})
    )
    assert [(file.path, file.size_bytes, file.digest) for file in found] == [
        ("big", 5, f"sha256:{SHA256}"),
        ("small", 0, f"git-sha1:{SHA1}"),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"format_version": 2, "files": {}}',
        listing(a={"size": -1, "blob_id": SHA1}),
        listing(a={"size": True, "blob_id": SHA1}),
        listing(a={"size": 1, "blob_id": "short"}),
        listing(a={"size": 1, "blob_id": SHA1, "lfs_sha256": SHA256, "lfs_size": 2}),
        listing(a={"size": 1, "blob_id": SHA1, "lfs_sha256": "../../etc"}),
        b'{"format_version": 1, "files": {"a": 3}}',
    ],
)
def test_what_is_no_listing_is_not_known(raw: bytes) -> None:
    with pytest.raises(NotKnown):
        tree_files(raw)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_a_listing_or_not_known(document: object) -> None:
    for raw in (json.dumps(document).encode(), json.dumps({"format_version": 1, "files": document}).encode()):
        try:
            files = tree_files(raw)
        except NotKnown:
            continue
        assert all(file.digest and file.size_bytes >= 0 for file in files)


@given(st.binary())
def test_any_bytes_are_a_listing_or_not_known(raw: bytes) -> None:
    try:
        tree_files(raw)
    except NotKnown:
        return
    assert json.loads(raw)["format_version"] == 1


@pytest.mark.parametrize("name", ["models--gpt2", "models--..--etc", "models--", "models--a--b--c"])
def test_a_repository_without_an_hf_name_is_not_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "snapshots").mkdir(parents=True)
    assert is_hub_cache(tmp_path / name)
    with pytest.raises((NotKnown, PrestageError)):
        find_snapshot(tmp_path / name, None)


def test_a_cache_without_snapshots_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "models--org--name" / "snapshots").mkdir(parents=True)
    with pytest.raises(PrestageError, match="no snapshot"):
        find_snapshot(tmp_path / "models--org--name", None)
