"""When a node writes to its NodeCache, where a write fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from prestage.api.nodes import NodeCacheStatus
from prestage.cacher.store.budget import Usage
from prestage.kube.errors import Unreachable
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi
from prestage.node.images.staging import Staging
from prestage.node.images.sync import ImagesSettings, ImagesSync
from prestage.node.reporting import Look
from prestage.node.sync import NodeSettings, NodeSync
from prestage.wire.broker_client import BrokerClient

LOOK = Look("store-1", Usage(10, 1, 100, 5, None), {}, {})


class StillImages(ImagesSync):
    """Nothing changes."""

    def status(self) -> NodeCacheStatus:
        return NodeCacheStatus()


def agent(folder: Path) -> Callable[[FakeApi], Awaitable[None]]:
    made = NodeSync(NodeSettings(folder, "n1", folder / "token"), cast("BrokerClient", None))
    made._has_object = True
    return lambda api: made._say(api, LOOK)


def images(folder: Path) -> Callable[[FakeApi], Awaitable[None]]:
    made = StillImages(ImagesSettings("n1", folder / "token"), cast("Staging", SimpleNamespace(containerd=None, terms=None)))
    made._has_object = True
    return made._say


@pytest.mark.parametrize("container", [agent, images])
def test_a_heartbeat_that_failed_is_tried_again_within_seconds(
    container: Callable[[Path], Callable[[FakeApi], Awaitable[None]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    async def steps() -> list[float]:
        nonlocal now_s
        api, written = FakeApi(), list[float]()
        await api.create(NODE_CACHES, {"metadata": {"name": "n1"}, "spec": {"nodeUID": "u"}})
        say = container(tmp_path)
        monkeypatch.setattr("prestage.node.sync.time.monotonic", lambda: now_s)
        for now_s in map(float, range(1000, 1200)):
            api.writes.clear()
            api.fail = [Unreachable("away")] if 1060 <= now_s < 1063 else []
            await say(api)
            written += [now_s] if api.writes else []
        return written

    assert asyncio.run(steps()) == [1000, 1065, 1125, 1185]
