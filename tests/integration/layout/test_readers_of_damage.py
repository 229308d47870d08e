"""From a loader that finds a bad chunk to the healed file at its next open, in a view, an old generation and a client's tree."""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loading import bytes_tensors
from stores.making import Model, Steps, blob_of, content, sha256, stage

from prestage.cacher.digests import CHUNK_BYTES, hex_of
from prestage.cacher.store.chunks import Verdict
from prestage.cacher.store.composing import Part
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms, Tree
from prestage.loader import CorruptFile
from prestage.loader.numpy import load_file
from servers.fixtures import require

FILE = "model.safetensors"
MODEL = Model({FILE: bytes_tensors({"a": 3_000_000, "b": 6_000_000}), "config.json": content(100)}, "hf://org/m@main")
AT = 5_000_000
"""Where its blob is damaged: in the second chunk."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", own=True) as store:
        stage(store, MODEL)
        yield store


@pytest.fixture
def tree(store: Store) -> Tree:
    return store.compose([Part("m", MODEL.artifact, "org/m", "main")], Terms("pin"))


def rot(store: Store) -> None:
    name = hex_of(blob_of(MODEL.contents[FILE]))
    path = store.root / "blobs" / name[:2] / name
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(AT)
        file.write(bytes([MODEL.contents[FILE][AT] ^ 1]))
    path.chmod(0o444)


def in_hub(tree: Tree) -> Path:
    """The file as a client of the hub finds it."""
    assert tree.hub is not None
    repository = tree.hub / "models--org--m"
    return repository / "snapshots" / (repository / "refs" / "main").read_text() / FILE


def places(store: Store, tree: Tree) -> list[Path]:
    return [store.path(MODEL.artifact) / FILE, tree.path / "m" / FILE, in_hub(tree)]


def test_every_way_to_a_file_is_verified_and_names_its_artifact(store: Store, tree: Tree) -> None:
    for place in places(store, tree):
        assert len(load_file(place, verify="require")) == 2
    paths = places(store, tree)
    rot(store)
    for place in paths:
        with pytest.raises(CorruptFile) as caught:
            load_file(place, verify="require")
        assert caught.value.artifact == MODEL.artifact
        assert caught.value.start <= AT < caught.value.stop


def test_a_loader_that_reports_gets_the_healed_file_at_its_next_open(store: Store, tree: Tree) -> None:
    paths = places(store, tree)
    rot(store)
    with pytest.raises(CorruptFile) as caught:
        load_file(paths[1])
    with paths[1].open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as running:
        before = running[:]
        found = store.damage.suspect(MODEL.artifact, FILE, caught.value.start)
        assert found.verdict is Verdict.DAMAGED
        assert found.event is not None
        assert found.event.chunk_offset == CHUNK_BYTES
        assert [(one.artifact, list(one.holds)) for one in found.event.wanted] == [(MODEL.artifact, [tree.hold])]
        steps = Steps()
        stage(store, MODEL, steps)
        assert steps.fetched == [FILE]
        assert running[:] == before, "who has it mapped keeps its bytes"
    for place in paths:
        assert len(load_file(place, verify="require")) == 2
    assert store.damage.suspect(MODEL.artifact, FILE, caught.value.start).verdict is Verdict.SOUND


def test_who_works_in_the_old_generation_is_told_there_too(store: Store, tree: Tree) -> None:
    rot(store)
    scrubber = store.damage.scrubber()
    assert [event.blob for event in scrubber.step(1 << 30).events] == [blob_of(MODEL.contents[FILE])]
    stage(store, MODEL)
    view = store.path(MODEL.artifact)
    (old,) = view.parent.glob(".old-*")
    with pytest.raises(CorruptFile) as caught:
        load_file(old / FILE, verify="require")
    assert caught.value.artifact == MODEL.artifact
    assert len(load_file(view / FILE, verify="require")) == 2
    store.drop_tree(tree.hold)
    assert not old.exists()


def test_a_read_only_mount_made_before_the_damage_shows_the_healed_file(store: Store, tree: Tree, tmp_path: Path) -> None:
    require("mount", "unshare")
    inside = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && while read -r name; do sha256sum "$2/$name"; done'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", inside, "sh", str(tree.path), str(tmp_path / "mount")]
    (tmp_path / "mount").mkdir()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def seen() -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{in_hub(tree).relative_to(tree.path)}\n")
            client.stdin.flush()
            return client.stdout.readline().split()[0]

        right = sha256(MODEL.contents[FILE]).removeprefix("sha256:")
        assert seen() == right
        rot(store)
        assert seen() != right
        assert store.damage.suspect(MODEL.artifact, FILE, AT).verdict is Verdict.DAMAGED
        stage(store, MODEL)
        assert seen() == right
        client.stdin.close()
        assert client.wait(20) == 0
