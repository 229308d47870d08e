"""Layers on their way into files without a name, and how much of them has come, from a registry that misbehaves."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from layers import sha256
from layers.rig import MIB, QUICK, Rig, file_in, made

from prestage.cacher.errors import Corrupt, Full, NotFound, PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.transfer.engine import Engine
from prestage.images.descriptors import Descriptor
from prestage.images.fetching import LayerFetcher
from prestage.images.incoming import Wanted
from servers import faults
from servers.hostile import Hostile

PATIENCE_S = 30.0


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Hostile() as server, closing(HttpClient(NetConfig(idle_timeout_s=20, connect_timeout_s=5))) as client:
        yield Rig(server, client)


CURED: dict[str, tuple[list[faults.Fault], faults.Fault | None]] = {
    "nothing": ([], None),
    "cut in the middle": ([faults.Cut(after=5_000_000)] * 2, None),
    "reset": ([faults.Reset(after=3_000_000), faults.Reset()], None),
    "no ranges": ([], faults.ignores_range),
}


@pytest.mark.parametrize("name", CURED)
def test_layers_come_in_any_order_and_are_what_their_digests_say(name: str, rig: Rig, tmp_path: Path) -> None:
    script, always = CURED[name]
    rig.on_layers(*script, always=always)
    assert [sha256(data) for data in rig.land(tmp_path)] == list(made().layers)
    assert list(tmp_path.iterdir()) == []
    assert rig.received_bytes == made().layer_bytes


ENDS: dict[str, tuple[faults.Fault, type[PrestageError]]] = {
    "wrong bytes": (faults.Flip(at=17 * MIB), Corrupt),
    "another length": (faults.WrongContentRange(total_shift=1), Corrupt),
    "gone": (faults.Status(404), NotFound),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_not_the_layer_is_told_and_nothing_of_it_is_left(name: str, rig: Rig, tmp_path: Path) -> None:
    fault, kind = ENDS[name]
    rig.on_layers(always=fault)
    with pytest.raises(kind):
        rig.land(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Full, match="make room on containerd"):
        rig.land(tmp_path)


@pytest.mark.parametrize("way", ["memory", "files"])
def test_cancelled_on_its_way_out_it_still_lets_go_of_all(way: str, rig: Rig, tmp_path: Path) -> None:
    """Files, threads and connections: what is left of them fails every test."""
    rig.on_layers(always=faults.Drip(2_000_000))
    registry, resolved = rig.resolve()

    async def leave(engine: Engine, at_the_door: asyncio.Event) -> None:
        fetcher = LayerFetcher(engine, rig.client, registry)
        if way == "files":
            async with fetcher.land(resolved.blobs, file_in(tmp_path)):
                at_the_door.set()
            return
        async with fetcher.fetch([Wanted(blob) for blob in resolved.blobs]) as incoming:
            await incoming.read(resolved.blobs[0], 0, 1)
            at_the_door.set()

    async def work(engine: Engine) -> None:
        at_the_door = asyncio.Event()
        leaving = asyncio.create_task(leave(engine, at_the_door))
        await at_the_door.wait()
        for _ in range(3):
            assert leaving.cancel(), "too late"
            await asyncio.sleep(0)
        await asyncio.wait([leaving])
        assert leaving.cancelled()

    with Engine(QUICK) as engine:
        asyncio.run(work(engine))


@pytest.mark.parametrize("way", ["memory", "files"])
def test_all_that_the_registry_has_sent_is_counted_wherever_it_waits(way: str, rig: Rig, tmp_path: Path) -> None:
    """Every connection falls silent somewhere; nobody else may then know of a byte more, or of two per cent less."""
    total, silent_at = made().layer_bytes, (1_700_001, 900_003, 1_300_007)
    rig.on_layers(*map(faults.Stall, silent_at), always=faults.Stall(after=-1))
    arrived: dict[str, int] = {}
    found: list[list[bytes]] = []

    def came(blob: Descriptor, so_far: int) -> None:
        arrived[blob.digest] = so_far

    working = threading.Thread(
        target=lambda: found.append(rig.land(tmp_path, came) if way == "files" else rig.fetch(arrived=came))
    )
    working.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while sum(arrived.values()) < sum(silent_at) - 0.02 * total and time.monotonic() < deadline:
            time.sleep(0.02)
        counted = sum(arrived.values())
    finally:
        rig.server.reset()
        working.join(PATIENCE_S)
    assert sum(silent_at) - 0.02 * total <= counted <= sum(silent_at)
    assert [sha256(data) for data in found[0]] == list(made().layers)
    assert sum(arrived.values()) == total
