"""Layers put into containerd's content folder as files: the same image as ever, and nothing left, however it ends."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from layers import curious, image, mixed, simple
from layers.node import NEEDS, Node

from prestage.cacher.errors import Misconfigured
from prestage.images.containerd.placing import Unnamed
from prestage.images.moving import WrongBytes
from servers import faults
from servers.containerd import Containerd
from servers.fixtures import require
from servers.hostile import Hostile
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
MB = 1_000_000
NOTHING: dict[str, list[str]] = {"leases": [], "blobs": [], "ingests": [], "snapshots": []}


@pytest.fixture(autouse=True)
def in_place(registry: Registry, node: Node) -> Iterator[None]:
    node.terms = replace(node.terms, in_place=True)
    yield
    node.clean()
    if node.containerd.used_bytes():  # cut off between name and COMMIT: it goes with the next blob that containerd removes
        node.rate_bytes_per_s = None
        node.stage(registry.push("p/next", "v1", simple(layers=1, seed=69)))
        node.clean()
    assert node.containerd.used_bytes() == 0


def test_what_is_put_in_place_is_what_a_pull_makes(registry: Registry, node: Node) -> None:
    name = registry.push("p/mixed", "v1", mixed())
    resolved = node.resolve(name)
    node.pull(name)
    pulled, tree = node.inventory(), node.tree(resolved)
    node.clean()
    node.stage(name)
    assert node.inventory()["snapshots"] == pulled["snapshots"]
    assert node.tree(resolved) == tree
    blobs = [path.stat() for path in (node.containerd.root / "io.containerd.content.v1.content/blobs/sha256").iterdir()]
    assert {(one.st_nlink, one.st_mode & 0o777) for one in blobs} == {(1, 0o444)}
    asked = len(registry.asked(client="containerd"))
    node.pull(name)
    assert len(registry.asked(client="containerd")) - asked == 2
    asyncio.run(node.containerd.kubelet().remove(name))
    node.release(resolved.artifact)
    assert node.inventory() == NOTHING


@pytest.mark.parametrize("program", ["containerd", "containerd-2"])
def test_the_first_blob_of_a_node_is_put_in_place_too(program: str, registry: Registry) -> None:
    """Before it, containerd 1 has no folder for blobs."""
    require(program)
    with tempfile.TemporaryDirectory(prefix="ctrd-") as folder, Containerd(Path(folder), program=program) as new:
        first = Node(new, replace(Node(new).terms, in_place=True))
        first.stage(registry.push("p/first", "v1", simple(layers=2, seed=64)))
        assert [row.state for row in first.listed()] == ["warm"]
        inodes = [path.stat().st_nlink for path in (new.root / "io.containerd.content.v1.content/blobs/sha256").iterdir()]
        first.clean()
    assert inodes == [1] * 3, "two layers and the config"


def test_a_file_that_containerd_has_removed_before_it_heard_of_it_is_written_to_it(
    registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Unnamed.link

    def removed(self: Unnamed, name: str) -> None:
        link(self, name)
        (node.containerd.root / "io.containerd.content.v1.content/blobs/sha256" / name).unlink()

    monkeypatch.setattr(Unnamed, "link", removed)
    node.stage(registry.push("p/removed", "v1", simple(layers=2, size_bytes=3 * MB, seed=61)))
    assert [row.state for row in node.listed()] == ["warm"]


def test_wrong_bytes_get_no_name(node: Node) -> None:
    made = simple(layers=2, size_bytes=MB, seed=62)
    with Hostile({"/v2/app/manifests/v1": made.top}) as server:
        for digest, data in made.blobs.items():
            server.put(f"/v2/app/blobs/{digest}", data)
        server.choose = lambda request: faults.Flip(at=1000) if made.layers[1] in request.path else None
        with pytest.raises(WrongBytes):
            node.stage(f"{server.url('').removeprefix('http://')}/app:v1")
    assert made.layers[1] not in node.inventory()["blobs"]


def test_whoever_is_cut_off_leaves_nothing(registry: Registry, node: Node) -> None:
    name = registry.push("p/cut", "v1", image([(tar, "gzip") for tar in (*curious()[:2], *curious()[3:5])]))
    large = registry.push("p/large", "v1", simple(layers=1, size_bytes=12 * MB, seed=63))
    node.rate_bytes_per_s = 8e6

    async def cut() -> None:
        async with node.open(large) as it:
            half = asyncio.Event()
            staging = asyncio.create_task(
                it.stager.stage(it.image, it.fetcher, lambda progress: half.set() if progress.fetched > 4 * MB else None)
            )
            await half.wait()
            staging.cancel()
            await asyncio.wait([staging])

    asyncio.run(cut())
    (row,) = node.listed()
    assert row.state == "staging"
    node.release(row.artifact)
    assert node.containerd.used_bytes() == 0
    node.stage(name)
    assert [one.state for one in node.listed()] == ["warm"]


def test_where_the_folder_is_not_it_is_said(registry: Registry, node: Node) -> None:
    name = registry.push("p/away", "v1", simple(layers=1))

    async def work() -> None:
        async with node.open(name) as it:
            setup = replace(it.stager.containerd.setup, content_root=str(Path(os.devnull) / "content"))
            it.stager.containerd = replace(it.stager.containerd, setup=setup)
            await it.stager.stage(it.image, it.fetcher)

    with pytest.raises(Misconfigured, match="content folder is not here"):
        asyncio.run(work())
