"""The agent's composition root: what starts, in which order, and how it ends.

    store (waits for a command that owns it to make way) -> engine -> socket -> kept wishes -> ready
    SIGTERM -> not ready -> transfers cut off and journaled -> streams told -> socket closed -> store given free

One stock asyncio loop (its sendfile is real), one root task group. A service that ends by itself ends the agent.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NoReturn, Protocol

from aiohttp import web

from prestage.cacher.agent.allocator import bound_allocator
from prestage.cacher.agent.bringing import Bringing
from prestage.cacher.agent.care import Care
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.http import Api, IdleConnections
from prestage.cacher.agent.listening import answers, bound, unlink
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.metrics import Metrics
from prestage.cacher.agent.narrow import Sockets
from prestage.cacher.agent.routes import ROUTES
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.stages import Stages
from prestage.cacher.errors import Busy, Misconfigured, PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.huggingface import endpoint_of
from prestage.cacher.origins.ports import Origin
from prestage.cacher.refs import ArtifactRef, Ref
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.staging import Stager
from prestage.cacher.store.budget import Policy
from prestage.cacher.store.locks import awaiting, owner_of
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.rate import RateLimit

_CLOSE_S = 1.0
"""Of the drain: for handlers that still write."""
_OWNER_LOOK_S = 0.5
"""How soon a wait for the store's owner sees that it is called off."""


class Companion(Protocol):
    """What knows of more than this node, in the agent's process: it says what is let go of, and where artifacts come from."""

    @property
    def policy(self) -> Policy:
        """In which order things are let go of. Asked from the store's threads."""
        ...

    def open_artifact(self, ref: ArtifactRef, cancel: threading.Event) -> Origin:
        """Where the bytes of an artifact come from. Called in a stage's thread, never before `start`."""
        ...

    async def start(self, service: Service) -> None:
        """Before anything is staged or answered."""
        ...

    async def run(self) -> None:
        """Until cancelled: one that ends ends the agent."""
        ...


def run(config: AgentConfig, companion: Companion | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Busy: another agent owns the store, or a command that does not make way.
        Misconfigured: the socket is in use, an address cannot be bound, or the store must not be touched.
    """
    _allow_descriptors()
    bound_allocator()
    try:
        asyncio.run(_Agent(config, companion).run())
    except BaseExceptionGroup as group:
        told, bugs = group.split(PrestageError)
        if told is None or bugs is not None:
            raise
        raise _first(told) from None


def _allow_descriptors() -> None:
    """As many as we may: each client is one, and a shell's default of 1024 is for programs that use select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first(group: BaseExceptionGroup[PrestageError]) -> PrestageError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


class _Agent:
    def __init__(self, config: AgentConfig, companion: Companion | None) -> None:
        self._config, self._companion = config, companion
        self._ending = asyncio.Event()

    async def run(self) -> None:
        config, companion = self._config, self._companion
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        async with AsyncExitStack() as closing, asyncio.TaskGroup() as group:
            store = await self._opened()
            if store is None:
                log("agent_ended", fields={"why": "told to while it waited for the store"})
                return
            closing.callback(store.close)
            client = HttpClient(NetConfig.from_environ(os.environ))
            closing.callback(client.close)
            engine = Engine(config.limits, RateLimit(config.rate))
            closing.callback(engine.close)
            stager = Stager(store, engine, client)
            stages = Stages(stager, _opening(companion, client), store.wishes, config, group=group)
            closing.callback(stages.close)
            service = Service(store, stages, config, loop)
            closing.callback(service.close)
            sockets = Sockets(service, config)
            closing.push_async_callback(sockets.close)
            service.mounts.sockets = sockets
            service.bringing = Bringing(store, stager, endpoint_of(os.environ))
            if companion is not None:
                await companion.start(service)
            care = Care(store, service, config)
            server = await self._listen(closing, service)
            services = [
                group.create_task(care.give_room_back()),
                group.create_task(care.sweep()),
                group.create_task(care.scrub()),
                group.create_task(IdleConnections(server, config.idle_connection_s).run()),
            ]
            if config.serving is not None:
                serving = await self._serve_peers(closing, service, config.serving)
                if config.serving_rate is not None:
                    services.append(group.create_task(care.follow_serving_rate(serving, config.serving_rate)))
            if companion is not None:
                services.append(group.create_task(companion.run()))
            await stages.start()
            await service.mounts.start()
            gc.freeze()  # what was imported stays: a full collection need not walk it, which took 30 ms of an answer
            log(
                "agent_ready", fields={"root": str(config.root), "socket": str(config.socket), "metrics": service.metrics_address}
            )
            for warning in store.warnings:
                log("store_warning", fields={"message": warning})
            await self._ending.wait()
            began = time.monotonic()
            service.end()
            log("agent_ending")
            if not await stages.drain(config.drain_s - _CLOSE_S):
                self._cut_off(began)
            for task in services:
                task.cancel()
        log("agent_ended", fields={"seconds": round(time.monotonic() - began, 3)})

    async def _opened(self) -> Store | None:
        """None: told to end while somebody else had it."""
        leaving = threading.Event()
        policy = self._companion.policy if self._companion is not None else None
        opening = asyncio.ensure_future(asyncio.to_thread(_open_store, self._config, policy, leaving))
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait((opening, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if self._ending.is_set():
            leaving.set()
            await asyncio.wait((opening,), timeout=self._config.drain_s - _CLOSE_S)
            if not opening.done():  # it recovers a large store: that survives `kill -9` at every step
                log("agent_ended", fields={"cut_off": True})
                os._exit(0)
        try:
            return await opening
        except Busy:
            if self._ending.is_set():
                return None
            raise

    def _cut_off(self, began: float) -> NoReturn:
        """A thread waits for an origin that does not answer, and nothing can tell it to stop. It must not outlive our ownership
        of the store: end as by `kill -9`, which every step on disk survives."""
        with suppress(OSError):
            self._config.socket.unlink()
        log("agent_ended", fields={"seconds": round(time.monotonic() - began, 3), "cut_off": True})
        os._exit(0)

    async def _serve_peers(self, closing: AsyncExitStack, service: Service, config: ServingConfig) -> Serving:
        service.serving = serving = Serving(config)
        closing.callback(serving.stop, _CLOSE_S)
        await asyncio.to_thread(serving.start)
        return serving

    async def _listen(self, closing: AsyncExitStack, service: Service) -> web.Server:
        config = self._config
        api = Api(service, config, ROUTES)
        runner = web.AppRunner(
            api.application(), access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_S, auto_decompress=False
        )
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        sock = bound(config.socket, mode=0o666 if config.admins or config.readers else 0o600)
        closing.callback(unlink, config.socket)
        await web.SockSite(runner, sock, backlog=1024).start()
        if config.listen is not None:
            metrics = web.AppRunner(
                Metrics(service, api).application(), access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_S
            )
            await metrics.setup()
            closing.push_async_callback(metrics.cleanup)
            host, port = config.listen
            try:
                await web.TCPSite(metrics, host, port).start()
            except OSError as exc:
                raise Misconfigured(
                    f"cannot listen on {host}:{port}: {exc.strerror}", hint="give another --listen, or none"
                ) from exc
            service.metrics_address = "{}:{}".format(*metrics.addresses[0][:2])
        assert runner.server is not None
        return runner.server


def _opening(companion: Companion | None, client: HttpClient) -> Callable[[Ref, threading.Event], Origin]:
    """Where bytes come from: of an artifact by its digest, where the companion says."""

    def opening(ref: Ref, cancel: threading.Event) -> Origin:
        if companion is not None and isinstance(ref, ArtifactRef):
            return companion.open_artifact(ref, cancel)
        return open_origin(ref, client=client, environ=os.environ, cancel=cancel)

    return opening


def _open_store(config: AgentConfig, policy: Policy | None, leaving: threading.Event) -> Store:
    """In a thread. Once `leaving` is set it ends soon, with Busy where it still waits."""
    owner = owner_of(config.root)
    if owner is not None and owner.socket is not None and answers(owner.socket):
        raise Busy(
            f"process {owner.pid} is the agent of {config.root} already, at {owner.socket}",
            hint="stop it first: transfers go on where they were",
        )
    deadline = time.monotonic() + config.takeover_s
    with awaiting(config.root):
        while True:
            try:
                return Store.open(
                    config.root,
                    own=True,
                    budget_bytes=config.budget_bytes,
                    margin_bytes=config.margin_bytes,
                    trusted=config.trusted,
                    purpose="prestage agent",
                    socket=config.socket,
                    wait_s=_OWNER_LOOK_S,
                    policy=policy,
                )
            except Busy:
                if leaving.is_set() or time.monotonic() >= deadline:
                    raise
