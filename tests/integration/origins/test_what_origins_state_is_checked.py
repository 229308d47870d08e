"""From ref to view: a digest or checksum that an origin states is checked against the bytes that came."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from offers import MODEL, WEIGHTS, Offer, repository

from prestage.cacher.errors import Corrupt
from prestage.cacher.net.client import HttpClient
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Staged, Stager, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from servers.hub import Hub
from servers.versitygw import Versitygw


@dataclass
class Node:
    """A store and what fills it."""

    store: Store
    engine: Engine
    client: HttpClient

    def stage(self, offer: Offer) -> Staged:
        return Stager(self.store, self.engine, self.client).stage(Wish(parse_ref(offer.ref)), offer.origin(self.client))


@pytest.fixture
def node(tmp_path: Path, client: HttpClient) -> Iterator[Node]:
    with Store.open(tmp_path / "store", own=True) as store, Engine(Limits()) as engine:
        yield Node(store, engine, client)


def test_a_hubs_files_are_staged_under_their_own_names(node: Node, hub_offer: Offer) -> None:
    staged = node.stage(hub_offer)
    found = {path.relative_to(staged.path).as_posix(): path.read_bytes() for path in staged.path.rglob("*") if path.is_file()}
    assert found == MODEL


def test_a_bucket_with_checksums_is_staged_and_checked(node: Node, s3_offer: Offer) -> None:
    staged = node.stage(s3_offer)
    assert (staged.path / "model.safetensors").read_bytes() == WEIGHTS
    assert staged.is_weak, "a prefix that nobody published has no version"


def flip(path: Path) -> None:
    """One bit, behind the server's back: size and time stay."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_object_that_is_not_what_its_checksum_says_is_corrupt(
    node: Node, s3_offer: Offer, bucket: str, versitygw: Versitygw
) -> None:
    flip(versitygw.buckets / bucket / "models" / "tiny" / "model.safetensors")
    with pytest.raises(Corrupt, match=r"model\.safetensors: the origin states crc"):
        node.stage(s3_offer)


@pytest.mark.parametrize(("path", "algorithm"), [("config.json", "git-sha1"), ("model.safetensors", "sha256")])
def test_a_file_of_a_hub_that_is_not_what_its_commit_says_is_corrupt(path: str, algorithm: str, node: Node, hub: Hub) -> None:
    repository(hub, "org/tiny", MODEL)
    flip(hub.root / "org" / "tiny" / path)
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": "/nonexistent"}
    offer = Offer("hf://org/tiny", {}, lambda path, content: None, "hf://org/none", environ)
    with pytest.raises(Corrupt, match=f"{path}: the origin states {algorithm}:") as corrupt:
        node.stage(offer)
    assert str(corrupt.value).count(f"{algorithm}:") == 2
