"""Trees of mounts: one for a target, kept until it is dropped, through reboots and lost holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.making import stage
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, OTHER, SHARING, SMALL, is_held

from prestage.cacher.digests import hex_of
from prestage.cacher.errors import Busy, Misconfigured
from prestage.cacher.store.composing import Part
from prestage.cacher.store.disk import Disk, remove_tree
from prestage.cacher.store.holds import Mount
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms, Tree

TARGET = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/prestage-models/mount"
TERMS = Terms("mount", note="pod", mount=Mount("uid-1", TARGET, "/models"))
PARTS = (Part("one", SMALL.artifact), Part("two", SHARING.artifact))


@pytest.fixture
def store(fast_path: Path) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True) as store:
        for model in (SMALL, SHARING, OTHER):
            stage(store, model)
        yield store


def holds_of(store: Store, tree: Tree) -> list[Path]:
    return [store.root / "holds" / hex_of(part.artifact) / f"{tree.hold}.json" for part in tree.parts]


def test_a_target_has_one_tree_and_asking_again_gives_it(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    assert store.compose(PARTS, TERMS) == tree
    assert [found.hold for found in store.trees()] == [tree.hold]
    [found] = store.mounted.all()
    assert (found.tree, found.this_boot) == (tree, True)
    assert 0 <= found.held_s < 60
    check_invariants(store.root, KNOWN)


def test_another_tree_for_a_target_replaces_the_first(store: Store) -> None:
    first = store.compose(PARTS, TERMS)
    second = store.compose([Part("one", OTHER.artifact)], TERMS)
    assert [found.hold for found in store.trees()] == [second.hold]
    assert second.hold != first.hold
    assert not is_held(store, SMALL)
    elsewhere = dataclasses.replace(TERMS, mount=Mount("uid-2", "/elsewhere"))
    store.compose([Part("one", OTHER.artifact)], elsewhere)
    assert len(store.trees()) == 2


def test_it_holds_over_a_reboot_and_is_then_told_from_those_of_this_boot(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    for path in holds_of(store, tree):
        document = json.loads(path.read_bytes())
        path.chmod(0o600)
        path.write_text(json.dumps({**document, "boot": "another", "created_at": document["created_at"] - 900}))
    store.sweep()
    [found] = store.mounted.all()
    assert not found.this_boot
    assert found.held_s >= 900
    with pytest.raises(Busy, match="pod uid-1"):
        store.evict(SMALL.artifact)
    assert store.compose(PARTS, TERMS) == tree  # the kubelet mounts again
    assert store.mounted.all()[0].this_boot


def test_a_lost_hold_is_found_again_for_the_tree_is_there(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    for path in holds_of(store, tree):
        path.unlink()
    assert store.sweep() == []
    assert is_held(store, SMALL)
    assert is_held(store, SHARING)
    store.drop_tree(tree.hold)
    assert store.sweep() == []
    assert not is_held(store, SMALL)
    assert store.trees() == []


def test_a_start_keeps_it(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    store.close()
    with Store.open(store.root, own=True) as again:
        assert [found.tree for found in again.mounted.all()] == [tree]
        again.drop_tree(tree.hold)


def test_what_is_not_right_any_more_is_made_anew(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    (tree.path / "one").chmod(0o755)
    next(path for path in (tree.path / "one").rglob("*") if path.is_file()).unlink()
    again = store.compose(PARTS, TERMS)
    assert again.hold != tree.hold
    assert [found.hold for found in store.trees()] == [again.hold]


def test_a_flat_tree_has_the_files_and_what_verifies_them_at_the_top(store: Store) -> None:
    tree = store.compose([Part("one", SMALL.artifact, "org/name")], TERMS, is_flat=True)
    for path, data in SMALL.contents.items():
        assert (tree.path / path).read_bytes() == data
    assert (tree.path / ".prestage/sums").exists()
    assert not (tree.path / ".hf").exists()
    assert not (tree.path / "one").exists()
    with pytest.raises(Misconfigured, match="flat"):
        store.compose(PARTS, TERMS, is_flat=True)


def test_a_mount_says_whom_it_is_for(store: Store) -> None:
    with pytest.raises(Misconfigured, match="whom"):
        store.compose(PARTS, Terms("mount"))
    with pytest.raises(Misconfigured, match="whom"):
        store.compose(PARTS, Terms("pin", mount=TERMS.mount))


def of_an_earlier_boot(store: Store, tree: Tree) -> None:
    for path in holds_of(store, tree):
        document = json.loads(path.read_bytes())
        path.chmod(0o600)
        path.write_text(json.dumps({**document, "boot": "another"}))


def test_what_a_power_cut_took_from_a_tree_is_made_again(store: Store) -> None:
    parts = [Part("one", SMALL.artifact, "org/name", "main"), Part("two", OTHER.artifact)]
    tree = store.compose(parts, TERMS)
    of_an_earlier_boot(store, tree)
    remove_tree(Disk(), tree.path / "two")
    remove_tree(Disk(), tree.path / ".hf" / "models--org--name" / "snapshots")
    (tree.path / ".prestage" / "one" / "sums").chmod(0o600)
    (tree.path / ".prestage" / "one" / "sums").write_bytes(b"")
    store.close()
    with Store.open(store.root, own=True) as again:
        assert [found.tree for found in again.mounted.all()] == [tree]
        check_invariants(again.root, KNOWN)
        assert again.compose(parts, TERMS) == tree
        again.drop_tree(tree.hold)


def test_a_tree_that_lost_its_account_of_itself_in_a_power_cut_goes_and_is_asked_for_again(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    of_an_earlier_boot(store, tree)
    record = tree.path / ".prestage" / ".tree.json"
    record.chmod(0o600)
    record.write_bytes(b"")
    store.close()
    with Store.open(store.root, own=True) as again:
        assert again.trees() == []
        assert again.holds(SMALL.artifact) == {}
        assert again.compose(PARTS, TERMS).hold != tree.hold


def test_one_of_this_boot_is_left_as_it_is_for_it_may_be_mounted(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    inode = tree.path.stat().st_ino
    store.close()
    with Store.open(store.root, own=True) as again:
        [found] = again.mounted.all()
        assert found.tree.path.stat().st_ino == inode
