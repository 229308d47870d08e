"""The images container's composition root: containerd, the engine that brings layers, broker and API server."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.agent.logs import log
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import PRIVATE, AddressPolicy
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.rate import RateLimit
from prestage.cacher.transfer.schedule import Schedule
from prestage.images.doctor import findings
from prestage.images.runtime import Containerd
from prestage.images.stager import StagingTerms
from prestage.kube.client import KubeApi
from prestage.kube.settings import KubeSettings
from prestage.node.broker_origin import Senders
from prestage.node.images.metrics import serve
from prestage.node.images.staging import Staging
from prestage.node.images.sync import ImagesSettings, ImagesSync
from prestage.wire.broker_client import BrokerClient, BrokerSettings


@dataclass(frozen=True, slots=True)
class ImagesConfig:
    """See the fields."""

    socket: Path
    """containerd's."""
    node: str
    broker: BrokerSettings
    kubeconfig: Path | None = None
    snapshotter: str | None = None
    """Default: the one that pulls use."""
    terms: StagingTerms = field(default_factory=StagingTerms)
    rate: Schedule | None = None
    listen: tuple[str, int] | None = None
    """Of metrics and health."""


def run(config: ImagesConfig) -> None:
    """Until SIGTERM or SIGINT."""
    asyncio.run(_run(config))


async def _run(config: ImagesConfig) -> None:
    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prestage-images-")))
        engine = stack.enter_context(Engine(rate=RateLimit(config.rate)))
        containerd = await stack.enter_async_context(await Containerd.connect(config.socket, config.snapshotter))
        for finding in findings(containerd.setup):
            log("containerd", fields={"mark": finding.mark, "finding": finding.text})
        settings = KubeSettings(kubeconfig=config.kubeconfig, user_agent="prestage-images")
        api = await stack.enter_async_context(await KubeApi.connect(settings))
        broker = await stack.enter_async_context(BrokerClient(config.broker))
        policy = AddressPolicy.tenant_from_environ({PRIVATE: "refuse", **os.environ})
        senders = Senders(NetConfig.from_environ(os.environ), policy, folder)
        stack.callback(senders.close)
        staging = Staging(containerd, engine, broker, senders, config.terms)
        syncing = ImagesSync(ImagesSettings(config.node, config.broker.token), staging)
        if config.listen is not None:
            await serve(stack, syncing, config.listen)
        sync = asyncio.create_task(syncing.run(api))
        stack.push_async_callback(_ended, sync)
        log("images_ready", fields={"node": config.node, "containerd": containerd.setup.version})
        waiting = asyncio.create_task(ending.wait())
        await asyncio.wait((sync, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if sync.done():
            await sync
    log("images_ended")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
