"""What a pull finds that was staged before: nothing to fetch or unpack, the same bytes under the same names, and no way around
the registry's own yes."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from layers import Made, Tar, curious, image, index, mixed, simple
from layers.node import NEEDS, Node

from prestage.cacher.errors import Corrupt, Denied, PrestageError
from servers.registry import PASSWORD, USER, Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
LOGIN = (USER, PASSWORD)


def asked_since(registry: Registry, before: int) -> list[tuple[str, bool, int]]:
    """Method, whether of a blob, bytes: of what containerd asked."""
    return [(one.method, one.is_blob, one.bytes) for one in registry.asked(client="containerd")[before:]]


def test_a_pull_of_a_staged_image_asks_twice_and_moves_no_layer(registry: Registry, node: Node) -> None:
    made = simple(layers=4, size_bytes=500_000)
    name = registry.push("t/app", "v1", made)
    staged = node.stage(name)
    assert (staged.layers, staged.fetched_bytes) == (4, made.layer_bytes)
    assert [(row.state, row.name) for row in node.listed()] == [("warm", name)]
    before = node.inventory()
    assert made.digest not in before["blobs"], "a manifest there would say that somebody has pulled"
    asked = len(registry.asked(client="containerd"))
    began = time.monotonic()
    node.pull(name)
    print(f"PullImage of a staged image: {time.monotonic() - began:.3f} s")
    requests = asked_since(registry, asked)
    assert [(method, is_blob) for method, is_blob, _ in requests] == [("HEAD", False), ("GET", False)]
    assert requests[1][2] == len(made.top)
    after = node.inventory()
    assert set(after["blobs"]) - set(before["blobs"]) == {made.digest}
    assert after["snapshots"] == before["snapshots"]


@pytest.mark.parametrize("kind", ["mixed", "index"])
def test_what_is_staged_is_what_a_pull_makes(kind: str, registry: Registry, node: Node) -> None:
    made = mixed() if kind == "mixed" else index({"arm64": simple(seed=5), "amd64": image([(tar, "zstd") for tar in curious()])})
    name = registry.push(f"t/{kind}", "v1", made)
    resolved = node.resolve(name)
    node.pull(name)
    pulled, tree = node.inventory(), node.tree(resolved)
    node.clean()
    assert not node.inventory()["snapshots"]
    node.stage(name)
    staged, staged_tree = node.inventory(), node.tree(resolved)
    assert staged["snapshots"] == pulled["snapshots"], "names and parents"
    assert staged_tree == tree
    assert any(row.is_whiteout for layer in tree for row in layer)
    asked = len(registry.asked(client="containerd"))
    node.pull(name)
    requests = asked_since(registry, asked)
    assert len(requests) == (3 if kind == "index" else 2)
    assert not any(is_blob for _, is_blob, _ in requests)


def test_layers_that_another_image_has_unpacked_are_not_fetched_again(registry: Registry, node: Node) -> None:
    first = simple(layers=2, seed=1)
    node.pull(registry.push("t/shared", "v1", first))
    draw = Tar().file("more", b"x" * 1000).end()
    both = _grown(first, draw)
    staged = node.stage(registry.push("t/shared", "v2", both))
    assert 0 < staged.fetched_bytes < 5000
    assert node.stage(registry.push("t/shared", "v2", both)).fetched_bytes == 0


def test_blobs_can_go_once_they_are_unpacked(registry: Registry, node: Node) -> None:
    made = simple(layers=3)
    name = registry.push("t/drop", "v1", made)
    node.terms = replace(node.terms, drop_blobs=True)
    node.stage(name)
    found = node.inventory()
    assert not set(made.layers) & set(found["blobs"])
    assert len(found["snapshots"]) == 3
    asked = len(registry.asked(client="containerd"))
    node.pull(name)
    assert not any(is_blob for _, is_blob, _ in asked_since(registry, asked))


def test_a_layer_that_is_not_what_its_config_says_is_never_committed(registry: Registry, node: Node) -> None:
    tars = [Tar().file("a", b"1").end(), Tar().file("b", b"2").end()]
    wrong = [*image([(tars[0], "none")]).layers, "sha256:" + "0" * 64]
    with pytest.raises(Corrupt, match="unpacks to something else"):
        node.stage(registry.push("t/wrong", "v1", image([(tar, "gzip") for tar in tars], diff_ids=wrong)))
    found = node.inventory()
    assert [name.partition(" ")[0] for name in found["snapshots"]] == [wrong[0]], "only the layer that is right"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Registry]]:
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(Registry(tmp_path_factory.mktemp(kind), password=kind == "basic", tokens=kind == "bearer"))
            for kind in ("basic", "bearer")
        }


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_who_may_not_pull_may_not_after_staging_either(kind: str, guarded: dict[str, Registry], node: Node) -> None:
    registry, made = guarded[kind], simple(seed=9)
    name = registry.push("team/private", "v1", made)
    references = [name, f"{name.rpartition(':')[0]}@{made.digest}", f"{name}@{made.digest}"]
    on_a_clean_node = _refusals(node, references)
    for login in (None, (USER, "wrong")):
        with pytest.raises(Denied) as caught:
            node.stage(name, login)
        assert "wrong" not in str(caught.value)
    node.stage(name, LOGIN)
    assert _refusals(node, references) == on_a_clean_node
    for reference in references:
        node.pull(reference, LOGIN)
    assert not any(one.is_blob and one.method == "GET" for one in registry.asked(client="containerd"))


def _refusals(node: Node, references: list[str]) -> list[str]:
    found = []
    for login in (None, (USER, "wrong")):
        for reference in references:
            with pytest.raises(PrestageError) as caught:
                node.pull(reference, login)
            found.append(str(caught.value))
    return found


def _grown(made: Made, tar: bytes) -> Made:
    """The same layers and one more."""
    return image([(one, "gzip") for one in (*(gzip.decompress(made.blobs[digest]) for digest in made.layers), tar)])
