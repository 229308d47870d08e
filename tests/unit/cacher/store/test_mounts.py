"""Trees of mounts: one for a target, kept until it is dropped, through reboots and lost holds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.making import fetch, stage
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, OTHER, SHARING, SMALL, damage, is_held

from prestage.cacher.digests import hex_of
from prestage.cacher.errors import Busy, Corrupt, Misconfigured
from prestage.cacher.store.composing import Part
from prestage.cacher.store.disk import Disk, remove_tree
from prestage.cacher.store.holds import Mount
from prestage.cacher.store.shared import SPARE_MAX
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


def own_of(tree: Tree) -> Path:
    assert tree.own is not None
    return tree.own


def test_what_is_not_right_any_more_is_made_anew(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    (own_of(tree) / "one").chmod(0o755)
    (own_of(tree) / "one" / "sums").unlink()
    again = store.compose(PARTS, TERMS)
    assert again.hold != tree.hold
    assert [found.hold for found in store.trees()] == [again.hold]


def another(number: int) -> Terms:
    return dataclasses.replace(TERMS, mount=Mount(f"uid-{number}", f"/target-{number}", "/models"))


def test_pods_with_equal_volumes_share_what_is_in_them_and_nothing_that_tells_of_one(store: Store) -> None:
    one, two = store.compose(PARTS, another(1)), store.compose(PARTS, another(2))
    assert one.path == two.path
    assert own_of(one) != own_of(two)
    for tree, other in ((one, "uid-2"), (two, "uid-1")):
        assert json.loads((own_of(tree) / ".tree.json").read_bytes())["mount"]["pod"] == tree.plan.mount.pod  # type: ignore[union-attr]  # a pod's has one
        assert not any(other.encode() in path.read_bytes() for path in own_of(tree).rglob("*") if path.is_file())
    account = (one.path / ".prestage" / ".tree.json").read_text()
    assert not any(word in account for word in ("uid-", "target", one.hold, two.hold, "models"))
    check_invariants(store.root, KNOWN)
    store.drop_tree(one.hold)
    assert is_held(store, SMALL)
    assert two.path.is_dir()
    store.drop_tree(two.hold)
    assert two.path.is_dir(), "the next pod finds it"
    assert not is_held(store, SMALL)
    assert not two.path.exists(), "it went with the artifact"


@pytest.mark.parametrize(
    "parts",
    [
        (Part("other", SMALL.artifact), PARTS[1]),
        (Part("one", SMALL.artifact, "org/name", "main"), PARTS[1]),
        (Part("one", SMALL.artifact, "org/name", "v1"), PARTS[1]),
        (PARTS[1], PARTS[0]),
        PARTS[:1],
    ],
)
def test_volumes_that_differ_share_nothing(store: Store, parts: tuple[Part, ...]) -> None:
    assert store.compose(PARTS, another(1)).path != store.compose(parts, another(2)).path
    check_invariants(store.root, KNOWN)


def test_a_healed_blob_is_in_what_pods_share(store: Store) -> None:
    path = "sub/dir/weights.bin"
    tree = store.compose([Part("one", SMALL.artifact, "org/name", "main")], TERMS)
    damage(store, SMALL, path)
    store.verify()
    with pytest.raises(Corrupt):
        store.compose([Part("one", SMALL.artifact, "org/name", "main")], another(2))
    fetch(store, SMALL, path)
    store.publish_view(SMALL.artifact)
    assert (tree.path / "one" / path).read_bytes() == SMALL.contents[path]
    assert store.compose([Part("one", SMALL.artifact, "org/name", "main")], another(2)).path == tree.path
    check_invariants(store.root, KNOWN)


@pytest.mark.parametrize("revision", ["main", "1" * 40, None])
def test_the_first_pod_takes_what_was_composed_ahead_and_gives_it_its_name(store: Store, revision: str | None) -> None:
    store.mounted.prepare(SMALL.artifact)
    [ready] = (store.root / "trees").iterdir()
    inode = ready.stat().st_ino
    store.mounted.prepare(SMALL.artifact)
    tree = store.compose([Part("llama", SMALL.artifact, "org/name", revision)], another(1))
    assert tree.path.stat().st_ino == inode
    assert [path.name for path in (store.root / "trees").iterdir()] == [tree.path.name]
    assert (tree.path / "llama" / "config.json").read_bytes() == SMALL.contents["config.json"]
    check_invariants(store.root, KNOWN)
    other = store.compose([Part("mine", SMALL.artifact, "org/name", revision)], another(2))
    assert other.path != tree.path, "a pod shows it"
    check_invariants(store.root, KNOWN)


@pytest.mark.parametrize(
    "part", [Part("m", SMALL.artifact, "org/name", "v1"), Part("m", SMALL.artifact, "my/name"), Part("m", SMALL.artifact)]
)
def test_what_was_composed_ahead_and_shows_something_else_is_not_taken(store: Store, part: Part) -> None:
    store.mounted.prepare(SMALL.artifact)
    store.compose([part], another(1))
    assert len(list((store.root / "trees").iterdir())) == 2
    check_invariants(store.root, KNOWN)


def test_what_no_pod_shows_is_kept_for_the_next_but_not_without_end(store: Store) -> None:
    kept = store.compose([Part("kept", SMALL.artifact)], another(0))
    paths = []
    for number in range(SPARE_MAX + 3):
        tree = store.compose([Part("m", SMALL.artifact, "org/name", f"v{number}")], another(1))
        os.utime(tree.path, (number, number))
        paths.append(tree.path)
        store.drop_tree(tree.hold)
    os.utime(kept.path, (0, 0))
    store.sweep()
    assert [path.exists() for path in paths] == [False] * 3 + [True] * SPARE_MAX
    assert kept.path.is_dir(), "a pod shows it"


def test_what_pods_share_that_lost_its_account_of_itself_is_put_right(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    account = tree.path / ".prestage" / ".tree.json"
    account.chmod(0o600)
    account.write_bytes(b"{")
    inode = tree.path.stat().st_ino
    store.close()
    with Store.open(store.root, own=True) as again:
        assert tree.path.stat().st_ino == inode, "it may be mounted"
        check_invariants(again.root, KNOWN)


def test_a_mount_of_the_version_before_stays_and_is_dropped(store: Store) -> None:
    """It has one tree of its own, with its account inside."""
    tree = store.compose([Part("one", SMALL.artifact, "org/name", "main")], TERMS)
    whole = store.compose([Part("one", SMALL.artifact, "org/name", "main")], Terms("pin"))
    account = json.loads((own_of(tree) / ".tree.json").read_bytes())
    remove_tree(Disk(), own_of(tree))
    whole.path.rename(own_of(tree))
    record = own_of(tree) / ".prestage" / ".tree.json"
    record.chmod(0o600)
    record.write_text(json.dumps({**account, "format": 1}))
    record.chmod(0o444)
    store.drop_tree(whole.hold)
    store.close()
    with Store.open(store.root, own=True) as again:
        [found] = again.mounted.all()
        assert (found.tree.path, found.tree.own, found.tree.hold) == (own_of(tree), None, tree.hold)
        check_invariants(again.root, KNOWN)
        assert again.compose([Part("one", SMALL.artifact, "org/name", "main")], TERMS) == found.tree
        again.drop_tree(tree.hold)
        assert not is_held(again, SMALL)


def test_a_flat_tree_has_the_files_and_what_verifies_them_at_the_top(store: Store) -> None:
    tree = store.compose([Part("one", SMALL.artifact, "org/name")], TERMS, is_flat=True)
    for path, data in SMALL.contents.items():
        assert (tree.path / path).read_bytes() == data
    assert (own_of(tree) / "sums").exists()
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
    accounts = [tree.path / ".prestage" / ".tree.json"]
    for path in [*holds_of(store, tree), *accounts]:
        document = json.loads(path.read_bytes())
        path.chmod(0o600)
        path.write_text(json.dumps({**document, "boot": "another"}))
        path.chmod(0o444 if path in accounts else 0o600)


def test_what_a_power_cut_took_from_what_is_a_pods_own_is_made_again(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    of_an_earlier_boot(store, tree)
    (own_of(tree) / "one" / "sums").unlink()
    store.close()
    with Store.open(store.root, own=True) as again:
        assert [found.tree for found in again.mounted.all()] == [tree]
        check_invariants(again.root, KNOWN)
        assert again.compose(PARTS, TERMS) == tree
        again.drop_tree(tree.hold)


@pytest.mark.parametrize("lost", ["two", ".hf/models--org--name/snapshots", ".hf/models--org--name/refs/main"])
def test_what_pods_share_goes_where_a_power_cut_took_from_it_and_is_composed_again(store: Store, lost: str) -> None:
    parts = [Part("one", SMALL.artifact, "org/name", "main"), Part("two", OTHER.artifact)]
    tree = store.compose(parts, TERMS)
    of_an_earlier_boot(store, tree)
    remove_tree(Disk(), tree.path / lost)
    store.close()
    with Store.open(store.root, own=True) as again:
        assert not tree.path.exists()
        assert [found.tree for found in again.mounted.all()] == [tree]
        check_invariants(again.root, KNOWN)
        assert again.compose(parts, TERMS) == tree
        check_invariants(again.root, KNOWN)
        assert tree.path.is_dir()


def test_what_pods_share_stays_where_a_reboot_left_it_whole(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    of_an_earlier_boot(store, tree)
    inode = tree.path.stat().st_ino
    store.close()
    with Store.open(store.root, own=True):
        assert tree.path.stat().st_ino == inode


def test_a_tree_that_lost_its_account_of_itself_in_a_power_cut_goes_and_is_asked_for_again(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    of_an_earlier_boot(store, tree)
    record = own_of(tree) / ".tree.json"
    record.chmod(0o600)
    record.write_bytes(b"")
    store.close()
    with Store.open(store.root, own=True) as again:
        assert again.trees() == []
        assert again.holds(SMALL.artifact) == {}
        assert again.compose(PARTS, TERMS).hold != tree.hold


def test_one_of_this_boot_is_left_as_it_is_for_it_may_be_mounted(store: Store) -> None:
    tree = store.compose(PARTS, TERMS)
    inodes = [path.stat().st_ino for path in (tree.path, own_of(tree))]
    store.close()
    with Store.open(store.root, own=True) as again:
        [found] = again.mounted.all()
        assert [path.stat().st_ino for path in (found.tree.path, own_of(found.tree))] == inodes
