"""What the agent does unasked, on a disk that takes nothing: it goes on, and does it when the disk takes something again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from prestage.cacher.agent import care as module
from prestage.cacher.agent.care import Care
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.stages import Stages
from prestage.cacher.errors import Full
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.store.disk import Disk
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine

CONTENT = os.urandom(100_000)


class FullDisk(Disk):
    """Full while it is told so."""

    is_full = False
    refused = 0

    def create(self, path: Path, *, direct: bool = False) -> int:
        if self.is_full:
            self.refused += 1
            raise Full(f"no space left on the disk for {path}")
        return super().create(path, direct=direct)


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("found", ["before a restart", "by the scrubber"])
def test_damage_on_a_full_disk_is_healed_once_there_is_room(tmp_path: Path, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAL_AGAIN_S", 0.05)
    monkeypatch.setattr(module, "SCRUB_IDLE_S", 0.05)
    disk, source = FullDisk(), tmp_path / "model"
    source.mkdir()
    (source / "a.bin").write_bytes(CONTENT)
    ref = parse_ref(f"file://{source}")

    async def scenario(store: Store, stager: Stager, client: HttpClient) -> None:
        staged = stager.stage(Wish(ref), open_origin(ref, client=client, environ={}))
        store.hold(staged.artifact, kind="pin")
        (blob,) = store.binding(staged.artifact).values()
        if found == "before a restart":
            store._parts.blobs.quarantine(blob)
        else:
            store.blob_path(blob).chmod(0o600)
            store.blob_path(blob).write_bytes(bytes(len(CONTENT)))
        disk.is_full = True
        config = AgentConfig(tmp_path / "store", tmp_path / "socket", scrub_every_s=0.0)
        async with asyncio.TaskGroup() as group:
            stages = Stages(
                stager,
                lambda ref, cancel: open_origin(ref, client=client, environ={}, cancel=cancel),
                store.wishes,
                config,
                group=group,
            )
            service = Service(store, stages, config, asyncio.get_running_loop())
            scrub = group.create_task(Care(store, service, config).scrub())
            await until(lambda: disk.refused > 3)
            assert not scrub.done()
            disk.is_full = False
            await until(lambda: store.state(staged.artifact) == "staged")
            scrub.cancel()
            assert await stages.drain(20)
            stages.close()
            service.close()
        assert (staged.path / "a.bin").read_bytes() == CONTENT

    with ExitStack() as closing:
        store = closing.enter_context(Store.open(tmp_path / "store", own=True, disk=disk))
        engine = closing.enter_context(Engine())
        client = HttpClient()
        closing.callback(client.close)
        asyncio.run(scenario(store, Stager(store, engine, client), client))
