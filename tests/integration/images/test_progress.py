"""How far an image is, while containerd unpacks it: held against what lies on its disk."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace

import pytest
from layers import Made, Tar, image, simple
from layers.node import NEEDS, Node

from prestage.images.chains import ChainId
from prestage.images.containerd import reads
from prestage.images.containerd.content import Writing
from prestage.images.containerd.leases import Lease
from prestage.images.containerd.reads import watched
from prestage.images.descriptors import parse_image_manifest
from prestage.images.image import Image, Layer, assemble
from prestage.images.names import OciDigest, parse_oci
from prestage.images.runtime import Containerd as Runtime
from servers import faults
from servers.containerd import Containerd
from servers.hostile import Hostile
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
MB = 1_000_000
FILES = 48
LOOKS = 12
LEASE = "held-by-a-test"


@dataclass(frozen=True)
class Bytes:
    data: memoryview

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        return self.data[offset : offset + size_bytes]

    async def arrival(self) -> None:
        return


def large(kind: str) -> Made:
    """One layer of random bytes, in files: compressed or not it is as long."""
    tar = Tar()
    for number in range(FILES):
        tar.file(f"data{number}", os.urandom(MB))
    return image([(tar.end(), kind)])


def resolved(made: Made) -> Image:
    manifest = parse_image_manifest(made.top)
    config = made.blobs[manifest.config.digest]
    return assemble(parse_oci("oci://reg.example/app:1"), "oci:app", (OciDigest(made.digest),), manifest, config)


def written_bytes(containerd: Containerd) -> int:
    """Of files in snapshots."""
    folder = containerd.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    return sum(path.lstat().st_size for path in folder.glob("*/fs/*"))


async def looked(runtime: Runtime, containerd: Containerd, layer: Layer) -> list[tuple[int, int]]:
    """Unpack it; how far containerd was by its reads and by its disk, again and again, while it stood still."""
    assert runtime.setup.content_folder is not None
    followed = await watched(runtime.setup.content_folder, layer.blob)
    assert followed is not None
    looks: list[tuple[int, int]] = []
    before, size_bytes = written_bytes(containerd), layer.blob.size_bytes
    unpacking = asyncio.create_task(runtime.snapshots.unpack(LEASE, layer))
    while not unpacking.done():
        await asyncio.sleep(0.001)
        if followed.so_far() >= len(looks) * size_bytes // LOOKS:
            with containerd.standing():
                looks.append((followed.so_far(), written_bytes(containerd) - before))
    await unpacking
    assert (followed.so_far(), followed.is_exact) == (size_bytes, True)
    followed.close()
    return [(said, written) for said, written in looks if 0 < said < size_bytes]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_of_a_layer_that_is_unpacked_it_is_known_how_far_containerd_is(node: Node, kind: str) -> None:
    """Unpacked under other names until it was seen often enough: a few hundredths of a second are soon over."""
    made, containerd = large(kind), node.containerd
    (layer,) = resolved(made).layers

    async def test() -> list[tuple[int, int]]:
        async with await Runtime.connect(containerd.socket) as runtime:
            await runtime.leases.create(Lease(LEASE, {}))
            source = Bytes(memoryview(made.blobs[layer.blob.digest]))
            looks: list[tuple[int, int]] = []
            await runtime.content.write(Writing(layer.blob, "layer", LEASE, {}), source)
            for number in range(8):
                looks += await looked(runtime, containerd, replace(layer, chain=ChainId(f"{layer.chain}-{number}")))
                if len(looks) >= 4:
                    break
            return looks

    looks = asyncio.run(test())
    assert len(looks) >= 4
    wrong = [(said, written) for said, written in looks if abs(said - written) > 0.02 * layer.blob.size_bytes]
    assert not wrong, f"of {layer.blob.size_bytes}"


@pytest.mark.parametrize("in_place", [False, True])
def test_progress_of_an_image_only_grows_and_within_a_layer_too(
    registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    monkeypatch.setattr(reads, "LOOK_S", 0.002)
    node.terms = replace(node.terms, in_place=in_place)
    name = registry.push("p/far", "v1", simple(layers=2, size_bytes=16 * MB, seed=81))
    seen: list[tuple[int, int]] = []

    async def test() -> None:
        async with node.open(name) as it:
            await it.stager.stage(it.image, it.fetcher, lambda progress: seen.append((progress.fetched, progress.unpacked)))

    asyncio.run(test())
    total = node.resolve(name).size_bytes
    assert [fetched for fetched, _ in seen] == sorted(fetched for fetched, _ in seen)
    assert [unpacked for _, unpacked in seen] == sorted(unpacked for _, unpacked in seen)
    assert seen[-1] == (total, total)
    assert len({unpacked for _, unpacked in seen}) > 5, "within layers"


@pytest.mark.parametrize("in_place", [False, True])
def test_progress_of_a_small_image_is_what_its_registry_has_sent(node: Node, in_place: bool) -> None:
    """The lower layer falls silent early, the other one late: what waits behind it in memory, or half a buffer, counts too."""
    node.terms = replace(node.terms, in_place=in_place)
    made = simple(layers=2, size_bytes=9 * MB, seed=82)
    silent_at = dict(zip(made.layers, (300_001, 5_100_007), strict=True))
    said = [0]
    with Hostile(
        {"/v2/app/manifests/v1": made.top, **{f"/v2/app/blobs/{one}": data for one, data in made.blobs.items()}}
    ) as server:
        server.choose = lambda request: (
            faults.Stall(after=silent_at.pop(request.path.rpartition("/")[2], -1))
            if request.path.rpartition("/")[2] in made.layers and request.range != (0, 1)
            else None
        )

        sent = sum(silent_at.values())

        async def work() -> int:
            async with node.open(f"{server.url('').removeprefix('http://')}/app:v1") as it:
                staging = asyncio.create_task(
                    it.stager.stage(it.image, it.fetcher, lambda progress: said.append(progress.fetched))
                )
                deadline = time.monotonic() + 20
                while said[-1] < sent - 0.02 * made.layer_bytes and time.monotonic() < deadline:
                    await asyncio.sleep(0.02)
                counted = said[-1]
                server.reset()
                await staging
                return counted

        counted = asyncio.run(work())
    assert sent - 0.02 * made.layer_bytes <= counted <= sent
    assert said[-1] == made.layer_bytes
