"""How long somebody else's pull is waited for: while something of that image moves, whatever others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from prestage.images import pulls
from prestage.images.containerd.content import Ingest
from prestage.images.image import Image
from prestage.images.pulls import until_pulled
from prestage.images.runtime import Containerd

INDEX, MANIFEST, CONFIG, LAYER = (f"sha256:{letter * 64}" for letter in "imcl")
IMAGE = cast(
    Image,
    SimpleNamespace(roots=(INDEX, MANIFEST), config=SimpleNamespace(digest=CONFIG), blobs=(SimpleNamespace(digest=LAYER),)),
)


class Broken:
    """A containerd in which a pull never ends: its index lies there, and no record names it."""

    def __init__(self, ingests: Callable[[int], list[Ingest]]) -> None:
        self.looks, self._ingests = 0, ingests
        self.content, self.images, self.leases = self, self, self

    async def info(self, digest: str) -> object:
        return digest

    async def of(self, roots: object) -> list[object]:
        return []

    async def collect(self) -> None:
        return

    async def ingests(self) -> list[Ingest]:
        self.looks += 1
        return self._ingests(self.looks)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "LOOK_S", 0.01)
    monkeypatch.setattr(pulls, "STILL_S", 0.5)


def waited(ingests: Callable[[int], list[Ingest]]) -> int:
    broken = Broken(ingests)

    async def wait() -> bool:
        async with asyncio.timeout(60):
            return await until_pulled(cast(Containerd, broken), IMAGE)

    assert asyncio.run(wait()) is False
    return broken.looks


def test_a_pull_of_another_image_does_not_make_a_dead_one_live() -> None:
    assert waited(lambda look: [Ingest("layer-sha256:" + "f" * 64, look, 10**9), Ingest(f"layer-{LAYER}", 7, 9)]) > 1


@pytest.mark.parametrize("ref", [f"layer-{LAYER}", f"config-{CONFIG}", f"manifest-{MANIFEST}", f"index-{INDEX}"])
def test_one_that_moves_is_waited_for(ref: str) -> None:
    assert waited(lambda look: [Ingest(ref, min(look, 200), 10**9)]) > 200
