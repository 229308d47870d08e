"""NodeCache to containerd: what is planned of images is staged, said, renewed and let go, by the images container's own loop."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from layers import simple
from layers.node import NEEDS, Node

from prestage.api.brokerage import ImageAnswer, ImageRequest
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.transfer.engine import Engine
from prestage.images.names import parse_oci
from prestage.images.runtime import Containerd as Runtime
from prestage.images.stager import StagingTerms
from prestage.kube.ports import Object
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi
from prestage.node.broker_origin import Senders
from prestage.node.images import deciding
from prestage.node.images.staging import Staging
from prestage.node.images.sync import ImagesSettings, ImagesSync
from servers.registry import PASSWORD, USER, Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]


@dataclass
class Hands:
    """Stands for the broker (its own tests are in tests/integration/broker): hands what opens the registry, when asked."""

    registry: Registry
    names: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    spoilt: str | None = None
    """What is handed the first time."""

    async def image(self, request: ImageRequest, *, deadline_s: float | None = None) -> ImageAnswer:
        self.asked += 1
        if request.artifact not in self.names:
            raise Misconfigured("not in the plan")
        name = parse_oci(f"oci://{self.names[request.artifact]}")
        issuer = self.registry.issuer
        header = f"Bearer {issuer.token(f'repository:{name.repository}:pull')}" if issuer is not None else None
        header, self.spoilt = self.spoilt or header, None
        base = f"http://{self.registry.host}/v2/{name.repository}"
        authority = f"oci:http://{self.registry.host}/{name.repository}"
        return ImageAnswer(name=str(name), base=base, authority=authority, authorization=header, allowed_cidrs=["127.0.0.0/8"])


@dataclass
class World:
    """One node, whose images container runs."""

    api: FakeApi
    hands: Hands
    node: Node

    async def plan(self, *rows: tuple[str, str]) -> None:
        listed = [{"digest": digest, "type": "Image", "action": action, "priority": 750_000_000} for digest, action in rows]
        listed = listed or [{"digest": "sha256:" + "0" * 64, "action": "Keep"}]  # a model: the plan says something
        body: Object = {"metadata": {"name": "n1"}, "spec": {"nodeUID": "u1", "artifacts": listed}}
        await self.api.apply(NODE_CACHES, body, manager="prestage-planner", force=True)

    async def status(self) -> dict[str, object]:
        found = (await self.api.get(NODE_CACHES, "n1")).get("status")
        return dict(cast("dict[str, object]", found or {}))

    async def state(self, artifact: str) -> str | None:
        rows = cast("Sequence[dict[str, str]]", (await self.status()).get("artifacts") or [])
        return next((one["state"] for one in rows if one["digest"] == artifact), None)

    async def until(self, look: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await look():
                await asyncio.sleep(0.05)

    async def becomes(self, artifact: str, state: str | None) -> None:
        async def is_so() -> bool:
            return await self.state(artifact) == state

        await self.until(is_so)


@asynccontextmanager
async def running(node: Node, hands: Hands, api: FakeApi, *, lease_s: float = 3600.0) -> AsyncIterator[World]:
    """With everything real but broker and API server."""
    folder = Path(tempfile.mkdtemp(prefix="hands-"))
    token = folder / "token"
    token.write_text("none")
    with (
        Engine() as engine,
        closing(Senders(NetConfig(), AddressPolicy.tenant(), folder)) as senders,
    ):
        async with await Runtime.connect(node.containerd.socket) as containerd:
            staging = Staging(containerd, engine, hands, senders, StagingTerms(lease_s=lease_s, high_water=1.0))
            task = asyncio.create_task(ImagesSync(ImagesSettings("n1", token), staging).run(api))
            try:
                yield World(api, hands, node)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    shutil.rmtree(folder, ignore_errors=True)


def artifact_of(node: Node, name: str, login: tuple[str, str] | None = None) -> str:
    return node.resolve(name, login).artifact


def test_what_is_planned_is_staged_and_said_and_let_go(registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "LINGER_S", 0.0)
    name = registry.push("plan/app", "v1", simple(layers=3, seed=21))
    artifact, hands, api = artifact_of(node, name), Hands(registry), FakeApi()
    hands.names[artifact] = name

    async def test() -> None:
        async with running(node, hands, api) as world:
            await world.plan((artifact, "Stage"))
            await world.becomes(artifact, "Warm")
            status = await world.status()
            images = cast("dict[str, object]", status["images"])
            assert images["snapshotter"] == "overlayfs"
            assert int(cast("int", images["budget"])) >= int(cast("int", images["used"])) > 0
            said = str(status)
            assert name not in said
            assert not [digest for digest in node.resolve(name).roots if digest in said], "OCI digests are nobody's"
            await world.plan((artifact, "Keep"))
            await world.plan()
            await world.becomes(artifact, None)

    asyncio.run(test())
    assert node.inventory() == {"leases": [], "blobs": [], "ingests": [], "snapshots": []}


def test_what_was_cut_off_goes_on_and_without_a_plan_nothing_goes(registry: Registry, node: Node) -> None:
    name = registry.push("plan/cut", "v1", simple(layers=4, size_bytes=2_000_000, seed=22))
    artifact, hands, api = artifact_of(node, name), Hands(registry), FakeApi()
    hands.names[artifact] = name

    async def test() -> None:
        async with running(node, hands, api) as world:
            await world.plan((artifact, "Stage"))

            async def is_at_it() -> bool:
                return await world.state(artifact) in ("Staging", "Warm")

            await world.until(is_at_it)
        async with running(node, hands, api) as world:
            await world.becomes(artifact, "Warm")
            await api.delete(NODE_CACHES, "n1")
            await api.apply(NODE_CACHES, {"metadata": {"name": "n1"}, "spec": {"nodeUID": "u1"}}, manager="prestage-planner")
            await world.becomes(artifact, "Warm")  # said again to the new object, which names nothing

    asyncio.run(test())
    assert [row.state for row in node.listed()] == ["warm"]


def test_a_lease_is_renewed_while_it_is_planned(registry: Registry, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    name = registry.push("plan/renewed", "v1", simple(seed=23))
    artifact, hands, api = artifact_of(node, name), Hands(registry), FakeApi()
    hands.names[artifact] = name

    async def test() -> None:
        async with running(node, hands, api, lease_s=60.0) as world:
            await world.plan((artifact, "Stage"))
            await world.becomes(artifact, "Warm")
        [before] = await asyncio.to_thread(node.listed)
        async with running(node, hands, api, lease_s=3600.0) as world:

            async def is_renewed() -> bool:
                [row] = await asyncio.to_thread(node.listed)
                return row.expires_at > before.expires_at + 3000

            await world.until(is_renewed)

    asyncio.run(test())


def test_a_token_that_is_refused_is_asked_for_anew(tmp_path: Path, node: Node) -> None:
    with Registry(tmp_path / "tokens", tokens=True) as registry:
        name = registry.push("plan/private", "v1", simple(layers=3, seed=24))
        artifact, hands, api = artifact_of(node, name, (USER, PASSWORD)), Hands(registry), FakeApi()
        hands.names[artifact] = name
        hands.spoilt = "Bearer of-yesterday"

        async def test() -> None:
            async with running(node, hands, api) as world:
                await world.plan((artifact, "Stage"))
                await world.becomes(artifact, "Warm")

        asyncio.run(test())
        assert hands.asked == 2
