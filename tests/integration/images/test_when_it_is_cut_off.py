"""Staging that ends at any moment, its process's or containerd's: the next one goes on, and nothing is lost, leaked or wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
from google.protobuf.message import Message
from layers import curious, image, simple
from layers.node import NEEDS, Node

from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import PrestageError, Unavailable
from prestage.images import leasing
from prestage.images.arriving import Arrived, ignored
from prestage.images.containerd.channel import Channel, Stream
from prestage.images.containerd.content import Content
from prestage.images.containerd.images import Images
from prestage.images.containerd.leases import Leases
from prestage.images.containerd.placing import Unnamed
from prestage.images.containerd.snapshots import Snapshots
from prestage.images.descriptors import Descriptor
from prestage.images.fetching import Fetcher
from prestage.images.image import Layer
from prestage.images.incoming import Incoming, Wanted
from prestage.images.landing import Landing
from prestage.images.runtime import Containerd as Runtime
from prestage.images.stager import ImageStager, StagingTerms
from prestage.wire.containerd_pb2 import Mount
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
NOTHING: dict[str, list[str]] = {"leases": [], "blobs": [], "ingests": [], "snapshots": []}
EVERY = int(os.environ.get("PRESTAGE_STEPS", "6"))
"""Every how many-th call is the last one; 1: each."""


class Died(Exception):
    """Nothing is said to containerd any more, as when the process is killed."""


class Dying(Channel):
    """Says so many things, then no more: neither what is to be done nor what would clean up."""

    left = 0

    async def call(self, method: str, *args: object, **options: object) -> Message:  # type: ignore[override]  # passes all on
        self._spend()
        return await super().call(method, *args, **options)  # type: ignore[arg-type]  # passes all on

    def stream(self, method: str, answer: type[Message], lease: str | None) -> Stream:
        self._spend()
        return super().stream(method, answer, lease)

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died


@asynccontextmanager
async def dying(runtime: Runtime, calls: int) -> AsyncIterator[Runtime]:
    async with Dying(runtime.channel.socket) as channel:
        channel.left = calls
        leases = Leases(channel)
        snapshots = Snapshots(channel, leases, runtime.setup.snapshotter)
        yield replace(
            runtime, channel=channel, leases=leases, content=Content(channel), snapshots=snapshots, images=Images(channel)
        )


async def stage_and_die(node: Node, name: str, calls: int) -> bool:
    """True: it died before it was done."""
    async with node.open(name) as it, dying(it.stager.containerd, calls) as runtime:
        try:
            await ImageStager(runtime, node.terms).stage(it.image, it.fetcher)
        except (Died, BaseExceptionGroup):
            return True
    return False


@pytest.mark.parametrize("in_place", [False, True])
def test_whatever_was_the_last_thing_said_the_next_run_ends_as_the_first_would_have(
    in_place: bool, registry: Registry, node: Node
) -> None:
    node.terms = replace(node.terms, in_place=in_place)
    name = registry.push("t/cut", "v1", image([(tar, "gzip") for tar in curious()[:3]]))
    resolved = node.resolve(name)
    node.stage(name)
    wanted, tree = node.inventory(), node.tree(resolved)
    node.release(resolved.artifact)
    assert node.inventory() == NOTHING
    for calls in itertools.count(1, EVERY):
        died = asyncio.run(stage_and_die(node, name, calls))
        if died:
            assert [row.state for row in node.listed()] in ([], ["staging"], ["warm"])
            node.stage(name)
        assert node.inventory() == wanted, f"after {calls} calls"
        assert node.tree(resolved) == tree
        node.release(resolved.artifact)
        assert node.inventory() == NOTHING, f"after {calls} calls"
        assert node.containerd.used_bytes() == 0, f"after {calls} calls"
        if not died:
            break
    print(f"died at {calls // EVERY} places")


def test_what_a_killed_process_had_begun_ends_by_itself(registry: Registry, node: Node) -> None:
    name = registry.push("t/cut", "v1", simple())
    node.terms = StagingTerms(lease_s=2, high_water=1.0)
    node.stage(name)
    assert asyncio.run(_collected_until_gone(node)) < 20
    assert node.inventory() == NOTHING


async def _collected_until_gone(node: Node) -> float:
    began = time.monotonic()
    async with await Runtime.connect(node.containerd.socket) as runtime:
        while [lease async for lease in _ours(runtime)] and time.monotonic() - began < 20:
            await asyncio.sleep(0.5)
            await runtime.leases.collect()
    return time.monotonic() - began


async def _ours(runtime: Runtime) -> AsyncIterator[str]:
    for lease in await runtime.leases.all():
        yield lease.id


def test_a_renewed_lease_keeps_what_the_old_one_kept(registry: Registry, node: Node) -> None:
    name = registry.push("t/cut", "v1", simple())
    node.stage(name)
    before, (row,) = node.inventory(), node.listed()

    async def renewed() -> None:
        async with await Runtime.connect(node.containerd.socket) as runtime:
            await ImageStager(runtime, StagingTerms(lease_s=48 * 3600)).renew(row.artifact)

    asyncio.run(renewed())
    after = node.inventory()
    assert {**after, "leases": []} == {**before, "leases": []}
    assert [lease.rpartition("-")[2] for lease in (*before["leases"], *after["leases"])] == ["1", "2"]
    assert node.listed()[0].expires_at > row.expires_at + 12 * 3600
    assert node.listed()[0].state == "warm"


def test_a_renewal_that_is_killed_anywhere_holds_everything_at_every_moment(registry: Registry, node: Node) -> None:
    name = registry.push("t/renewal", "v1", simple(layers=2, seed=31))
    artifact = node.stage(name).artifact
    whole = {key: rows for key, rows in node.inventory().items() if key != "leases"}

    async def renewed(calls: int) -> bool:
        async with await Runtime.connect(node.containerd.socket) as real, dying(real, calls) as runtime:
            later = ImageStager(runtime, node.terms, now=lambda: time.time() + (calls + 1) * 24 * 3600)
            try:
                await later.renew(artifact)
            except Died:
                return True
        return False

    async def ends() -> list[float]:
        async with await Runtime.connect(node.containerd.socket) as runtime:
            return [one.expires_at for one in leasing.ours(await runtime.leases.all())[artifact]]

    calls = 0
    while asyncio.run(renewed(calls)):
        assert {key: rows for key, rows in node.inventory().items() if key != "leases"} == whole, f"after {calls} calls"
        (row,) = node.listed()
        assert (row.state, row.expires_at) == ("warm", min(asyncio.run(ends()))), "due as soon as anything of it ends"
        calls += 1
    assert calls > 5
    assert len(node.inventory()["leases"]) == 1, "what kills left was made one"
    node.release(artifact)
    assert node.inventory() == NOTHING


def test_a_lease_that_is_replaced_under_an_attempt_costs_nothing_but_another_attempt(registry: Registry, node: Node) -> None:
    name = registry.push("t/replaced", "v1", simple(layers=3, size_bytes=4_000_000, seed=41))
    node.rate_bytes_per_s = 6e6

    async def work() -> str:
        async with node.open(name) as it:
            begun = asyncio.Event()
            staging = asyncio.create_task(
                it.stager.stage(it.image, it.fetcher, lambda p: begun.set() if p.fetched > 1e6 else None)
            )
            await begun.wait()
            await it.stager.renew(it.image.artifact)
            return (await staging).lease

    assert asyncio.run(work()).endswith("-2")
    assert [row.state for row in node.listed()] == ["warm"]


@dataclass(frozen=True)
class Lingering:
    """A fetcher that takes a while to end."""

    of: Fetcher
    ends: asyncio.Event

    @asynccontextmanager
    async def fetch(self, wanted: Sequence[Wanted], arrived: Arrived = ignored) -> AsyncIterator[Incoming]:
        async with self.of.fetch(wanted, arrived) as incoming:
            try:
                yield incoming
            finally:
                self.ends.set()
                await to_its_end(asyncio.sleep(0.3))

    def land(
        self, blobs: Sequence[Descriptor], file_of: Callable[[Descriptor], Unnamed], arrived: Arrived = ignored
    ) -> AbstractAsyncContextManager[Landing]:
        return self.of.land(blobs, file_of, arrived)


def test_a_stage_that_is_cancelled_while_it_ends_an_attempt_begins_no_other(registry: Registry, node: Node) -> None:
    name = registry.push("t/ending", "v1", simple(layers=3, size_bytes=4_000_000, seed=42))
    node.rate_bytes_per_s = 6e6

    async def work() -> None:
        async with node.open(name) as it:
            begun, ends = asyncio.Event(), asyncio.Event()
            fetcher = Lingering(it.fetcher, ends)
            staging = asyncio.create_task(it.stager.stage(it.image, fetcher, lambda p: begun.set() if p.fetched > 1e6 else None))
            await begun.wait()
            it.stager.pause()
            await ends.wait()
            staging.cancel()
            await asyncio.wait([staging], timeout=5)
            assert staging.cancelled()

    asyncio.run(work())


def test_containerd_killed_in_the_middle_loses_nothing(registry: Registry, node: Node) -> None:
    name = registry.push("t/killed", "v1", image([(tar, "gzip") for tar in curious()]))
    resolved = node.resolve(name)
    node.pull(name)
    pulled = node.inventory()["snapshots"]
    node.clean()

    async def killed(after_s: float) -> None:
        staging = asyncio.create_task(node.staging(name))
        await asyncio.sleep(after_s)
        await asyncio.to_thread(node.containerd.kill)
        await asyncio.to_thread(node.containerd.start)
        with suppress(PrestageError):
            await staging

    for after_s in (0.15, 0.3):
        asyncio.run(killed(after_s))
        node.stage(name)
        assert node.inventory()["snapshots"] == pulled
        node.release(resolved.artifact)
        assert node.inventory() == NOTHING


def test_a_folder_that_a_killed_containerd_left_for_a_snapshot_it_never_wrote_down_is_in_nobodys_way(
    registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registry.push("t/orphans", "v1", image([(tar, "gzip") for tar in curious()]))
    resolved = node.resolve(name)
    node.pull(name)
    pulled = node.inventory()["snapshots"]
    node.clean()
    refused = list[str]()
    prepared = Snapshots._prepared

    async def noted(snapshots: Snapshots, lease: str, key: str, layer: Layer) -> Sequence[Mount] | None:
        try:
            return await prepared(snapshots, lease, key, layer)
        except Unavailable as exc:
            refused.append(str(exc))
            raise

    monkeypatch.setattr(Snapshots, "_prepared", noted)
    snapshots = node.containerd.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    left = [snapshots / str(number) for number in range(1, 3000) if not (snapshots / str(number)).exists()]  # one is the next
    try:
        for folder in left:
            (folder / "fs").mkdir(parents=True)
        node.stage(name)
        assert any("failed to rename" in said for said in refused)
        assert node.inventory()["snapshots"] == pulled
        node.release(resolved.artifact)
        assert node.inventory() == NOTHING
    finally:
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)


def test_a_command_that_is_killed_goes_on_when_it_is_run_again(registry: Registry, node: Node) -> None:
    made = simple(layers=4, size_bytes=10_000_000)
    name = registry.push("t/command", "v1", made)
    argv = [sys.executable, "-m", "prestage.cacher.cli", "images", "stage", f"oci://{name}", "--json"]
    argv += ["--containerd", str(node.containerd.socket), "--high-water", "100"]
    slow = subprocess.Popen([*argv, "--rate", "20M"], stdout=subprocess.PIPE, text=True)
    assert slow.stdout is not None
    for line in slow.stdout:
        if '"progress"' in line and int(line.partition('"unpacked": ')[2].partition(",")[0]) >= 10_000_000:
            break
    slow.send_signal(signal.SIGKILL)
    slow.stdout.close()
    slow.wait(10)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()[-1]
    assert '"event": "done"' in done
    fetched = int(done.partition('"fetched_bytes": ')[2].partition(",")[0])
    assert fetched < made.layer_bytes - 9_000_000, "what was here is not fetched again"
    assert [row.state for row in node.listed()] == ["warm"]


def test_staged_and_released_again_and_again_nothing_is_left(registry: Registry, node: Node) -> None:
    name = registry.push("t/cycles", "v1", image([(tar, "gzip") for tar in curious()]))
    artifact = node.resolve(name).artifact
    for _ in range(int(os.environ.get("PRESTAGE_CYCLES", "3"))):
        node.stage(name)
        assert len(node.inventory()["snapshots"]) == 12
        node.release(artifact)
        assert node.inventory() == NOTHING
    assert node.containerd.used_bytes() == 0
    assert not [mount for mount in node.containerd.mounts() if "containerd-mount" in mount or "snapshot" in mount]
