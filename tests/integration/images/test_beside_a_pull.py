"""A pod's own pull and our staging of one image at once: the pull goes first, nobody does again what the other has done."""

from __future__ import annotations

import asyncio
import time

import pytest
from layers import index, simple
from layers.node import NEEDS, Node

from prestage.cacher.errors import PrestageError
from prestage.images.containerd.content import Starved, Writing
from prestage.images.containerd.leases import Lease
from prestage.images.descriptors import Descriptor
from prestage.images.names import OciDigest
from prestage.images.progress import Progress
from prestage.images.pulls import is_pulling
from prestage.images.runtime import Containerd as Runtime
from prestage.images.stager import StagedImage
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
MB = 1_000_000


@pytest.mark.parametrize("delay_s", [0.0, 0.15, 0.6])
def test_a_pull_that_comes_while_we_fetch_goes_first(delay_s: float, registry: Registry, node: Node) -> None:
    made = simple(layers=4, size_bytes=6 * MB, seed=round(delay_s * 100))
    name = registry.push("t/beside", f"d{round(delay_s * 100)}", made)
    node.rate_bytes_per_s = 12 * MB  # two seconds

    async def both() -> tuple[float, int]:
        staging = asyncio.create_task(node.staging(name))
        await asyncio.sleep(delay_s)
        began = time.monotonic()
        await node.containerd.kubelet().pull(name)
        pulled_s = time.monotonic() - began
        return pulled_s, (await staging).yielded

    pulled_s, yielded = asyncio.run(both())
    print(f"the pull took {pulled_s:.2f} s, staging gave way {yielded} times")
    found = node.inventory()
    assert len(found["snapshots"]) == 4
    assert not found["ingests"]
    assert [row.state for row in node.listed()] == ["warm"]
    (image,) = asyncio.run(node.containerd.kubelet().images())
    assert image.repo_tags == [name]


def test_an_image_that_was_pulled_before_is_only_leased(registry: Registry, node: Node) -> None:
    name = registry.push("t/pulled", "v1", simple())
    node.pull(name)
    staged = node.stage(name)
    assert (staged.fetched_bytes, staged.yielded) == (0, 0)
    asyncio.run(node.containerd.kubelet().remove(name))
    asked = len(registry.asked(client="containerd"))
    node.pull(name)
    assert not any(one.is_blob for one in registry.asked(client="containerd")[asked:])


@pytest.mark.parametrize("second", ["another index", "its own tag"])
def test_a_manifest_of_an_index_that_was_pulled_is_no_pull_of_another_image(second: str, registry: Registry, node: Node) -> None:
    made = simple(seed=71)
    node.pull(registry.push("t/shared", "first", index({"amd64": made})))
    other = index({"amd64": made, "arm64": simple(seed=72)}) if second == "another index" else made
    name = registry.push("t/shared", second.rpartition(" ")[2], other)

    async def staged() -> StagedImage:
        async with asyncio.timeout(10):
            return await node.staging(name)

    staged_image = asyncio.run(staged())
    assert (staged_image.fetched_bytes, staged_image.yielded) == (0, 0)
    node.release(staged_image.artifact)
    assert not node.listed()


def test_a_pull_that_containerd_was_killed_in_is_not_waited_for_for_ever(
    registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease holds the index for a day."""
    monkeypatch.setattr("prestage.images.pulls.STILL_S", 2.0)
    name = registry.push("t/killed", "v1", simple(layers=8, size_bytes=20 * MB, seed=73))

    roots = node.resolve(name).roots

    async def killed() -> None:
        pulling = asyncio.create_task(node.containerd.kubelet().pull(name))
        async with await Runtime.connect(node.containerd.socket) as runtime:
            while not await is_pulling(runtime, roots):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # some layers are half here
        node.containerd.kill()
        with pytest.raises(PrestageError):
            await pulling

    asyncio.run(killed())
    node.containerd.start()

    async def staged() -> StagedImage:
        async with asyncio.timeout(30):
            return await node.staging(name)

    assert asyncio.run(staged()).yielded == 1
    assert [row.state for row in node.listed()] == ["warm"]


class Slowly:
    """Four megabytes a second."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        await asyncio.sleep(size_bytes / (4 * MB))
        return memoryview(self._data)[offset : offset + size_bytes]

    async def arrival(self) -> None:
        raise AssertionError("it is slow, but never silent")


def test_a_pull_goes_on_from_where_we_closed_the_stream(registry: Registry, node: Node) -> None:
    made = simple(layers=1, size_bytes=12 * MB)
    name = registry.push("t/closed", "v1", made)
    (layer,), ((_, data),) = made.layers, [(key, blob) for key, blob in made.blobs.items() if key in made.layers]
    blob = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", OciDigest(layer), len(data))

    async def work() -> None:
        async with node.open(name) as it:
            runtime = it.stager.containerd
            await runtime.leases.create(Lease("prestage-by-hand", {}))
            writing = Writing(blob, f"layer-{layer}", "prestage-by-hand", {})
            filling = asyncio.create_task(runtime.content.write(writing, Slowly(data)))
            await asyncio.sleep(1.2)
            pulling = asyncio.create_task(node.containerd.kubelet().pull(name))
            await asyncio.sleep(0.3)
            filling.cancel()
            await pulling

    asked = len(registry.asked(client="containerd"))
    asyncio.run(work())
    moved = sum(one.bytes for one in registry.asked(client="containerd")[asked:] if one.is_blob and one.method == "GET")
    assert 0 < moved < len(data) - 2 * MB, "the rest, not all of it"


class Silent(Slowly):
    """Four megabytes, then nothing more."""

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        if offset >= 4 * MB:
            await asyncio.Event().wait()
        return await super().read(offset, min(size_bytes, 4 * MB - offset))


def test_a_stream_without_bytes_is_closed_and_a_pull_of_another_image_goes_on_with_the_layer(
    registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prestage.images.containerd.content.IDLE_S", 0.5)
    made = simple(layers=1, size_bytes=12 * MB, seed=91)
    name = registry.push("t/silent", "v1", made)
    (layer,), data = made.layers, made.blobs[made.layers[0]]
    blob = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", OciDigest(layer), len(data))

    async def work() -> None:
        async with node.open(name) as it:
            runtime = it.stager.containerd
            await runtime.leases.create(Lease("prestage-by-hand", {}))
            with pytest.raises(Starved):
                await runtime.content.write(Writing(blob, f"layer-{layer}", "prestage-by-hand", {}), Silent(data))
            assert [(one.ref, one.offset) for one in await runtime.content.ingests()] == [(f"layer-{layer}", 4 * MB)]
            await node.containerd.kubelet().pull(name)

    asked = len(registry.asked(client="containerd"))
    asyncio.run(work())
    moved = sum(one.bytes for one in registry.asked(client="containerd")[asked:] if one.is_blob and one.method == "GET")
    assert 0 < moved < len(data) - 3 * MB


def test_staging_can_be_paused_and_goes_on(registry: Registry, node: Node) -> None:
    made = simple(layers=1, size_bytes=18 * MB, seed=77)
    name = registry.push("t/paused", "v1", made)
    node.rate_bytes_per_s = 12 * MB
    steps: list[tuple[str, int]] = []

    async def work() -> int:
        async with node.open(name) as it:

            def told(progress: Progress) -> None:
                steps.append((progress.step, progress.fetched))

            staging = asyncio.create_task(it.stager.stage(it.image, it.fetcher, told))
            while not [one for one in await it.stager.containerd.content.ingests() if one.offset >= 3 * MB]:
                await asyncio.sleep(0.02)
            it.stager.pause()
            while steps[-1][0] != "pause":
                await asyncio.sleep(0.02)
            said = len(steps)
            await asyncio.sleep(1.0)
            assert len(steps) == said, "it stands still"
            it.stager.resume()
            await staging
            return said

    said = asyncio.run(work())
    moved = [fetched for _, fetched in steps]
    assert moved[said:] == sorted(moved[said:])
    assert moved[said] >= max(moved[said - 1], 3 * MB), "what is containerd's stays, and is counted on from"
    assert moved[-1] == made.layer_bytes
    assert [row.state for row in node.listed()] == ["warm"]
