"""The broker put together: what runs, in which order it starts and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from prestage.cacher.agent.logs import log
from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.control.access import AccessTerms
from prestage.control.asked import Asked
from prestage.control.broker.claims import Claims
from prestage.control.broker.counts import Counts
from prestage.control.broker.handing import Hander
from prestage.control.broker.identity import Accounts, Reviewer
from prestage.control.broker.images import Images
from prestage.control.broker.mounting import Granter
from prestage.control.broker.opening import Network
from prestage.control.broker.origin_status import OriginStatuses
from prestage.control.broker.reaching import Reach
from prestage.control.broker.rechecking import Rechecking
from prestage.control.broker.resolving import Resolver
from prestage.control.broker.server import Server
from prestage.control.broker.view import View
from prestage.control.certificates import Serving, Terms
from prestage.control.health import health
from prestage.kube.client import KubeApi
from prestage.kube.ports import Api
from prestage.kube.settings import KubeSettings

_THREADS: Final = 24
_GRACE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host: everywhere."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """See the fields."""

    listen: Address
    health: Address
    accounts: Accounts
    service: str = "prestage-broker"
    names: tuple[str, ...] = ()
    """Other names and addresses in the certificate."""
    terms: Terms | None = None
    """How long certificates last."""
    refresh_s: float = 300.0
    """Between looks at the certificate."""
    access: AccessTerms = AccessTerms()  # noqa: RUF009  frozen
    kube: KubeSettings = KubeSettings(user_agent="prestage-broker")  # noqa: RUF009  frozen


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that serves. Ports are known when they were 0."""

    port: int
    health_port: int


async def serve(config: BrokerConfig, environ: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    counts = Counts()
    async with await KubeApi.connect(config.kube) as api:
        counts.registry.register(Asked(api.requests))
        try:
            await run(api, config, environ, stop, counts=counts)
        except* PrestageError as group:
            failure = _first(group)
        else:
            return
    raise failure


async def run(
    api: Api,
    config: BrokerConfig,
    environ: Mapping[str, str],
    stop: asyncio.Event,
    started: asyncio.Future[Running] | None = None,
    *,
    counts: Counts | None = None,
) -> None:
    """Serve until `stop` is set. `started` is told once it does."""
    async with AsyncExitStack() as ending:
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="prestage-broker-"))
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prestage-broker")
        ending.callback(pool.shutdown, cancel_futures=True)
        counts, view = counts or Counts(), View(api)
        is_serving = False
        health_port = await _listen(ending, health(counts.registry, lambda: is_serving, otherwise="not yet"), config.health)
        group = await ending.enter_async_context(asyncio.TaskGroup())
        following = group.create_task(view.run())
        ending.callback(following.cancel)
        network = Network.from_environ(environ, Path(folder))
        parts = _parts(api, view, counts, network, config, pool)
        ending.callback(parts.hander.close)
        serving = Serving(api, config.accounts.namespace, config.service, names=config.names, terms=config.terms)
        await serving.refresh()
        keeping = group.create_task(serving.run(config.refresh_s))
        ending.callback(keeping.cancel)
        await _synced(view, stop)
        if not stop.is_set():
            for service in (parts.rechecking.run(), parts.statuses.run()):
                ending.callback(group.create_task(service).cancel)
            port = await _listen(ending, parts.server.application(), config.listen, serving)
            is_serving = True
            log("serving", fields={"port": port, "namespace": config.accounts.namespace})
            if started is not None:
                started.set_result(Running(port, health_port))
            await stop.wait()
        log("ending")


def _first(group: BaseExceptionGroup[PrestageError]) -> PrestageError:
    """One is enough to say why it ends."""
    [first, *_] = group.exceptions
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _synced(view: View, stop: asyncio.Event) -> None:
    """The cluster was seen, or it is over."""
    waits = [asyncio.ensure_future(view.synced.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


@dataclass(frozen=True, slots=True)
class _Parts:
    server: Server
    hander: Hander
    rechecking: Rechecking
    statuses: OriginStatuses


def _parts(api: Api, view: View, counts: Counts, network: Network, config: BrokerConfig, pool: ThreadPoolExecutor) -> _Parts:
    namespace = config.accounts.namespace
    reviewer = Reviewer(api)
    claims = Claims(api, namespace, socket.gethostname())
    resolver = Resolver(api, view, claims, network, namespace=namespace, pool=pool)
    reach = Reach(api, view, network, resolver.places, pool)
    resolver.images = images = Images(api, view, reach, network)
    hander = Hander(api, view, reach)
    rechecking = Rechecking(view, claims, reach, counts, api, terms=config.access, images=images)
    granter = Granter(api, view, reviewer, hurry=rechecking.hurry)
    statuses = OriginStatuses(api, view, resolver.places, network, pool)
    server = Server(reviewer, config.accounts, resolver, hander, granter, counts, images=images)
    return _Parts(server, hander, rechecking, statuses)


async def _listen(ending: AsyncExitStack, application: web.Application, at: Address, serving: Serving | None = None) -> int:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    ending.push_async_callback(runner.cleanup)
    context = None if serving is None else serving.context
    try:
        await web.TCPSite(runner, at.host or None, at.port, ssl_context=context).start()
    except OSError as exc:
        raise Misconfigured(f"{at.host}:{at.port} cannot be listened on: {exc.strerror}", hint="name another port") from exc
    port: int = runner.addresses[0][1]
    return port
