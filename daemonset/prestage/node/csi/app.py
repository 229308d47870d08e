"""The csi container's composition root: agent's socket, API server and broker in, the driver's two sockets out."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from prestage.api.annotations import DRIVER
from prestage.cacher.agent.logs import log
from prestage.kube.client import KubeApi
from prestage.kube.settings import KubeSettings
from prestage.node.csi.agent_client import AgentClient
from prestage.node.csi.grants import Authoriser, KeptGrants
from prestage.node.csi.publishing import Publisher
from prestage.node.csi.service import Identity, Node, Registration, driver_services, registration_services
from prestage.node.csi.settling import keep_settled
from prestage.node.csi.waiting import Stagings
from prestage.wire.broker_client import BrokerClient, BrokerSettings

API_S = 4.0
"""A pod that may start by what is kept does not wait for an API server that is away for longer."""
GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class CsiConfig:
    """See the fields."""

    agent: Path
    """The agent's socket."""
    endpoint: Path
    """The driver's socket, as we see it; grants are kept in its folder."""
    registration: Path
    """The kubelet's registry of plugins, as we see it."""
    driver_path: Path
    """The driver's socket, as the kubelet sees it."""
    node: str
    broker: BrokerSettings
    kubeconfig: Path | None = None
    kubelet_dir: Path = Path("/var/lib/kubelet")
    """Nothing is mounted outside of it."""


def run(config: CsiConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    asyncio.run(_run(config))


async def _run(config: CsiConfig) -> None:
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        settings = KubeSettings(kubeconfig=config.kubeconfig, deadline_s=API_S, connect_s=2.0, user_agent="prestage-csi")
        api = await stack.enter_async_context(await KubeApi.connect(settings))
        broker = await stack.enter_async_context(BrokerClient(config.broker))
        agent = await stack.enter_async_context(AgentClient(config.agent))
        stagings = Stagings(agent)
        stack.push_async_callback(stagings.close)
        publisher = Publisher(agent, Authoriser(api, broker, KeptGrants(config.endpoint.parent)), stagings)
        settling = asyncio.create_task(keep_settled(agent, publisher.turn))
        stack.push_async_callback(_ended, settling)
        await _serve(stack, config.endpoint, driver_services(Identity(), Node(publisher, config.node, config.kubelet_dir)))
        registry = config.registration / f"{DRIVER}-reg.sock"
        await _serve(stack, registry, registration_services(Registration(config.driver_path)))
        stack.callback(_unlink, registry)
        gc.freeze()  # as the agent does: a full collection would walk all that was imported, in the middle of a publish
        log("csi_ready", fields={"endpoint": str(config.endpoint), "registration": str(registry)})
        await ending.wait()
    log("csi_ended")


async def _serve(stack: AsyncExitStack, path: Path, services: list[grpc.GenericRpcHandler]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _unlink(path)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(services)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    finally:
        os.umask(before)
    stack.push_async_callback(server.stop, GRACE_S)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
