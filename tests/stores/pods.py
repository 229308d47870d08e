"""Operations on pods' trees that crashes are tried in: what they share is made once, and goes with the artifact."""

from __future__ import annotations

from prestage.cacher.store.composing import Part
from prestage.cacher.store.holds import Mount
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms
from stores.making import Steps, fetch
from stores.oracle import check_trees
from stores.scenarios import (
    KNOWN,
    PARTS,
    SHARING,
    SMALL,
    Acks,
    Scenario,
    act_publish,
    check_evict,
    check_heal,
    damage,
    is_held,
    staged,
)

POD_PARTS = (PARTS[0], Part("two", SHARING.artifact))


def for_pod(number: int) -> Terms:
    """As a pod's volume is held."""
    return Terms("mount", note="pod", mount=Mount(f"uid-{number}", f"/target-{number}", "/models"))


def _act_compose_for_pods(store: Store, steps: Steps) -> None:
    """The second shares what the first had composed."""
    for number in (1, 2):
        tree = store.compose(POD_PARTS, for_pod(number))
        steps.ack(f"hold {tree.hold}")


def _check_compose_for_pods(store: Store, acks: Acks) -> None:
    """After a power cut the kubelet asks again, and gets the same; an artifact of a pod stays until it is dropped."""
    trees = store.trees()
    assert all(is_held(store, model) for model in (SMALL, SHARING) if trees)
    for number in (1, 2):
        tree = store.compose(POD_PARTS, for_pod(number))
        assert (tree.path / "one" / "sub/dir/weights.bin").read_bytes() == SMALL.contents["sub/dir/weights.bin"]
    check_trees(store.root, KNOWN)
    assert len(store.trees()) == 2
    for tree in store.trees():
        store.drop_tree(tree.hold)
    assert not is_held(store, SMALL)
    assert list((store.root / "trees").iterdir()) == []
    staged(SMALL)(store)


def _prepare_pods(store: Store) -> None:
    staged(SMALL, SHARING)(store)
    for number in (1, 2):
        store.compose(POD_PARTS, for_pod(number))


def _act_drop_a_pod(store: Store, steps: Steps) -> None:
    tree = store.trees()[0]
    store.drop_tree(tree.hold)
    steps.ack(f"dropped {tree.hold}")


def _check_drop_a_pod(store: Store, acks: Acks) -> None:
    trees = store.trees()
    assert not {f"dropped {tree.hold}" for tree in trees} & set(acks)
    assert 1 <= len(trees) <= 2
    assert is_held(store, SMALL)
    _check_compose_for_pods(store, acks)


def _act_evict_what_pods_showed(store: Store, steps: Steps) -> None:
    for tree in store.trees():
        store.drop_tree(tree.hold)
    store.evict(SMALL.artifact)
    steps.ack("evicted")


def _check_evict_what_pods_showed(store: Store, acks: Acks) -> None:
    if acks:
        assert list((store.root / "trees").iterdir()) == [], "what was evicted is in none"
    for tree in store.trees():
        store.drop_tree(tree.hold)
    check_evict(store, acks)


def _prepare_healable_pods(store: Store) -> None:
    _prepare_pods(store)
    damage(store, SMALL, "sub/dir/weights.bin")
    store.verify()
    fetch(store, SMALL, "sub/dir/weights.bin")


def _check_heal_pods(store: Store, acks: Acks) -> None:
    for tree in store.trees():
        if tree.path.exists():  # not where a power cut ended the boot in its middle
            assert (tree.path / "two" / "weights.bin").read_bytes() == SMALL.contents["sub/dir/weights.bin"]
    check_heal(store, acks)


ONE = (Part("llama", SMALL.artifact, "org/name", "main"),)


def _prepare_ready(store: Store) -> None:
    staged(SMALL, SHARING)(store)
    store.mounted.prepare(SMALL.artifact)


def _act_take_what_is_ready(store: Store, steps: Steps) -> None:
    tree = store.compose(ONE, for_pod(1))
    steps.ack(f"hold {tree.hold}")


def _check_take_what_is_ready(store: Store, acks: Acks) -> None:
    tree = store.compose(ONE, for_pod(1))
    assert (tree.path / "llama" / "config.json").read_bytes() == SMALL.contents["config.json"]
    assert sorted(path.name for path in tree.path.iterdir()) == [".hf", ".prestage", "llama"]
    assert check_trees(store.root, KNOWN) == 1
    assert is_held(store, SMALL)


POD_SCENARIOS = (
    Scenario("take what is ready", _prepare_ready, _act_take_what_is_ready, _check_take_what_is_ready),
    Scenario("compose for pods", staged(SMALL, SHARING), _act_compose_for_pods, _check_compose_for_pods),
    Scenario("drop a pod's", _prepare_pods, _act_drop_a_pod, _check_drop_a_pod),
    Scenario("evict what pods showed", _prepare_pods, _act_evict_what_pods_showed, _check_evict_what_pods_showed),
    Scenario(
        "heal what pods show",
        _prepare_healable_pods,
        act_publish,
        _check_heal_pods,
        damaged=(SMALL.artifact, SHARING.artifact),
    ),
)
"""Long ones: not every step of them is tried each time."""
