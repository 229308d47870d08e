"""Trees as a client sees them: what is in them, how long they stay, how they heal."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.disks import FailingDisk
from stores.making import Model, content, fetch, stage
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, OTHER, PARTS, SHARING, SMALL, TWO_PIECES, damage, is_held, is_whole

from prestage.cacher.digests import hex_of
from prestage.cacher.errors import Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.store.composing import Part
from prestage.cacher.store.holds import HoldId
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms

PATH = "sub/dir/weights.bin"


@pytest.fixture
def root(fast_path: Path) -> Path:
    return fast_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root, own=True) as store:
        for model in (SMALL, SHARING, OTHER):
            stage(store, model)
        yield store


def test_a_tree_is_one_read_only_directory_of_everything(store: Store) -> None:
    tree = store.compose(PARTS, Terms("pin"))
    assert tree.path == store.root / "mounts" / tree.hold
    assert (tree.path / "one" / PATH).read_bytes() == SMALL.contents[PATH]
    assert tree.hub is not None
    repository = tree.hub / "models--org--name"
    commit = (repository / "refs/feature/one").read_text()
    assert (repository / "snapshots" / commit / PATH).read_bytes() == SMALL.contents[PATH]
    check_invariants(store.root, KNOWN)
    assert store.compose([Part("two", SHARING.artifact)], Terms("pin")).hub is None


def test_it_takes_no_room_and_holds_what_it_shows(store: Store) -> None:
    before = store.room.usage().used
    tree = store.compose(PARTS, Terms("pin"))
    assert store.room.usage().used == before
    assert is_held(store, SMALL)
    assert is_held(store, SHARING)
    assert not is_held(store, OTHER)
    store.drop_tree(tree.hold)
    store.drop_tree(tree.hold)
    assert store.trees() == []
    assert not any(row.holds for row in store.list())
    assert not is_held(store, SMALL)


def test_dropping_one_of_its_holds_drops_it_whole(store: Store) -> None:
    store.compose(PARTS, Terms("pin"))
    assert store.unpin(SMALL.artifact) == 1
    assert store.trees() == []
    assert not is_held(store, SHARING)


def test_it_needs_no_owner(store: Store) -> None:
    with Store.open(store.root, own=False) as reader:
        tree = reader.compose(PARTS, Terms("run"))
        assert [found.hold for found in store.trees()] == [tree.hold]
        reader.drop_tree(tree.hold)
    assert store.trees() == []


def test_an_older_store_without_the_folder_gets_it(store: Store) -> None:
    (store.root / "mounts").rmdir()
    assert store.trees() == []
    assert store.compose(PARTS, Terms("pin")).path.is_dir()


def test_what_is_not_staged_or_damaged_is_refused_and_nothing_is_left(store: Store) -> None:
    with pytest.raises(NotFound):
        store.compose([Part("a", TWO_PIECES.artifact)], Terms("pin"))
    store.put_manifest(TWO_PIECES.manifest)
    with pytest.raises(NotFound, match="not staged"):
        store.compose([*PARTS, Part("a", TWO_PIECES.artifact)], Terms("pin"))
    damage(store, SMALL, PATH)
    store.verify()
    with pytest.raises(Corrupt, match="damaged"):
        store.compose(PARTS, Terms("pin"))
    with pytest.raises(Misconfigured):
        store.compose([], Terms("pin"))
    with pytest.raises(Misconfigured, match="ttl"):
        store.compose(PARTS, Terms("ttl"))
    assert list((store.root / "mounts").iterdir()) == []
    assert not any(row.holds for row in store.list())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("fatal", range(0, 60, 7))
def test_a_disk_that_fails_in_its_making_leaves_neither_tree_nor_hold(number: int, fatal: int, root: Path) -> None:
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        stage(store, SHARING)
    disk = FailingDisk(fatal, number)
    with Store.open(root, own=True, disk=disk) as store:
        disk.armed = True
        try:
            store.compose(PARTS, Terms("pin"))
        except PrestageError as exc:
            assert disk.hit, exc
        disk.armed = False
        assert disk.hit
        assert list((root / "mounts").iterdir()) == []
        assert not any(row.holds for row in store.list())


def test_it_goes_with_the_end_of_its_time(root: Path) -> None:
    clock = [1000.0]
    with Store.open(root, own=True, now=lambda: clock[0]) as store:
        stage(store, SMALL)
        tree = store.compose([Part("a", SMALL.artifact)], Terms("ttl", expires_at=1060.0))
        other = store.compose([Part("a", SMALL.artifact)], Terms("pin"))
        assert store.sweep() == []
        expire(store, tree.hold)
        assert store.sweep() == [tree.hold]
        assert [found.hold for found in store.trees()] == [other.hold]
        check_invariants(root, KNOWN)


def expire(store: Store, hold: HoldId) -> None:
    """As if the boot clock had passed it."""
    path = store.root / "holds" / hex_of(SMALL.artifact) / f"{hold}.json"
    document = json.loads(path.read_bytes())
    path.chmod(0o600)
    path.write_text(json.dumps({**document, "expires_boottime": 1.0}))


def test_it_goes_with_its_process_at_the_next_start_and_before_an_evict(root: Path) -> None:
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
    for again in (False, True):
        script = "import sys; from pathlib import Path; from prestage.cacher.store.store import Store\n"
        script += "from prestage.cacher.store.composing import Part; from prestage.cacher.store.trees import Terms\n"
        script += "store = Store.open(Path(sys.argv[1]), own=False)\n"
        script += "print(store.compose([Part('a', sys.argv[2])], Terms('run')).path)"
        made = subprocess.run(
            [sys.executable, "-c", script, str(root), SMALL.artifact], check=True, capture_output=True, text=True
        )
        tree = Path(made.stdout.strip())
        assert tree.is_dir()
        with Store.open(root, own=False) as reader:
            assert reader.trees()
        with Store.open(root, own=True) as store:
            assert not tree.exists()
            stage(store, SMALL)
            if again:
                store.evict(SMALL.artifact)
                assert store.list() == []


def test_an_unreadable_account_keeps_a_tree_as_long_as_its_hold(store: Store) -> None:
    tree = store.compose(PARTS, Terms("pin"))
    account = tree.path / ".prestage" / ".tree.json"
    account.parent.chmod(0o755)
    account.chmod(0o644)
    account.write_bytes(b"{")
    assert store.sweep() == []
    assert store.trees()[0].parts == ()
    store.drop_tree(tree.hold)
    assert store.trees() == []


def test_a_damaged_hold_keeps_its_tree_and_goes_with_it(store: Store) -> None:
    tree = store.compose(PARTS, Terms("run"))
    hold = store.root / "holds" / hex_of(SMALL.artifact) / f"{tree.hold}.json"
    hold.write_bytes(b"{")
    assert store.sweep() == []
    store.drop_tree(tree.hold)
    assert store.trees() == []
    assert not is_held(store, SMALL)


@pytest.mark.parametrize("name", ["", "*", "../x", "pin-*", "pin-0123456789abcde", "/etc"])
def test_what_names_no_tree_drops_nothing(name: str, store: Store) -> None:
    tree = store.compose(PARTS, Terms("pin"))
    store.drop_tree(HoldId(name))
    assert [found.hold for found in store.trees()] == [tree.hold]
    assert is_held(store, SMALL)


def test_a_healed_blob_is_in_every_tree_and_an_open_map_keeps_its_bytes(store: Store) -> None:
    trees = [store.compose(PARTS, Terms("pin")), store.compose([Part("b", SHARING.artifact)], Terms("pin"))]
    damage(store, SMALL, PATH)
    wrong = (trees[0].path / "one" / PATH).read_bytes()
    assert wrong != SMALL.contents[PATH]
    with (trees[0].path / "one" / PATH).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as running:
        folder = os.open(trees[0].path / "one" / "sub/dir", os.O_PATH)
        store.verify()
        fetch(store, SMALL, PATH)
        store.publish_view(SMALL.artifact)
        assert running[:] == wrong
        healed = os.open("weights.bin", os.O_RDONLY, dir_fd=folder)
        assert os.read(healed, 1 << 20) == SMALL.contents[PATH], "who came in before the heal sees it too"
        os.close(healed)
        os.close(folder)
    assert (trees[1].path / "b" / "weights.bin").read_bytes() == SMALL.contents[PATH]
    check_invariants(store.root, KNOWN)


def test_a_tree_heals_as_far_as_its_bytes_are_here(store: Store) -> None:
    tree = store.compose([Part("a", SMALL.artifact), Part("o", OTHER.artifact)], Terms("pin"))
    damage(store, SMALL, PATH)
    damage(store, OTHER, "other.bin")
    store.verify()
    fetch(store, SMALL, PATH)
    store.publish_view(SMALL.artifact)
    assert (tree.path / "a" / PATH).read_bytes() == SMALL.contents[PATH]
    assert (tree.path / "o" / "other.bin").read_bytes() != OTHER.contents["other.bin"], "still served, still damaged"
    stage(store, OTHER)
    assert (tree.path / "o" / "other.bin").read_bytes() == OTHER.contents["other.bin"]
    check_invariants(store.root, KNOWN)


@pytest.mark.parametrize(
    "name", [".prestage/one/sums", ".hf/models--org--name/.prestage/sums", ".hf/models--org--name/refs/main"]
)
def test_its_small_files_heal_at_the_next_start(name: str, root: Path) -> None:
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        stage(store, SHARING)
        tree = store.compose(PARTS, Terms("pin"))
    path = tree.path / name
    right = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    path.write_bytes(b"wrong")
    with Store.open(root, own=True):
        assert path.read_bytes() == right
        check_invariants(root, KNOWN)


def test_what_is_not_ours_in_mounts_is_left_alone(root: Path) -> None:
    with Store.open(root, own=True):
        pass
    (root / "mounts" / "lost").mkdir()
    with Store.open(root, own=True) as store:
        assert store.warnings == [f"{root / 'mounts' / 'lost'} is not ours: it was left alone"]


def test_a_part_is_named_by_ref_or_artifact_and_knows_its_repository(store: Store) -> None:
    assert store.part("a", SMALL.name) == Part("a", SMALL.artifact, "org/name", "main")
    assert store.part("a", SMALL.artifact) == Part("a", SMALL.artifact, "org/name", "main")
    assert store.part("a", SHARING.name, repo="mine/x") == Part("a", SHARING.artifact, "mine/x", "two")
    stage(store, TWO_PIECES)
    assert store.part("a", TWO_PIECES.name) == Part("a", TWO_PIECES.artifact)
    with pytest.raises(NotFound):
        store.part("a", "hf://org/none")


def test_a_tree_of_many_files_is_whole(store: Store) -> None:
    model = Model({f"{number % 7}/{number}.bin": content(10, str(number)) for number in range(300)}, "hf://org/many@main")
    stage(store, model)
    tree = store.compose([Part("many", model.artifact, "org/many", "main")], Terms("pin"))
    assert is_whole(store, model)
    assert len(list((tree.hub or tree.path).rglob("*.bin"))) == 300
