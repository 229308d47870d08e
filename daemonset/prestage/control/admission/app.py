"""`prestage control admission`: webhook, health and metrics, mirrors, certificate, caBundle, and the guard of gates.

A review that nobody answers lets its pod through unchanged. So a replica is ready once the webhook listens, knowing the
cluster, and one that is told to end answers until nobody is sent to it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from prestage.cacher.errors import PrestageError
from prestage.control.admission.authorities import Bundles
from prestage.control.admission.judgement import Judge
from prestage.control.admission.metrics import AdmissionMetrics
from prestage.control.admission.server import Webhook
from prestage.control.asked import Asked
from prestage.control.certificates import Serving, Terms
from prestage.control.gates.loop import Gates
from prestage.control.gates.world import World
from prestage.kube.client import KubeApi
from prestage.kube.settings import KubeSettings

_log = logging.getLogger("prestage")
_CERTIFICATE_RETRY_S = 2.0
LEAVING_S = 5.0
"""A Service forgets a pod that ends within a second or two; API servers keep their connections for longer."""
WHOLE_S = 10.0
"""So long a replica that listens waits for its mirrors before it is ready: volumes can be had from it without them."""


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Flags, read."""

    listen: tuple[str, int]
    health: tuple[str, int] | None
    namespace: str
    service: str
    kubeconfig: Path | None = None
    names: tuple[str, ...] = ()
    """More names and addresses for the certificate: where the webhook is called by URL."""
    terms: Terms | None = None
    refresh_s: float = 300.0
    """Between looks at the certificate."""


async def serve(config: AdmissionConfig) -> None:
    """Until SIGTERM or SIGINT, and `LEAVING_S` more; then within 5 s."""
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.set)
    async with await KubeApi.connect(KubeSettings(kubeconfig=config.kubeconfig, user_agent="prestage-admission")) as api:
        work = asyncio.create_task(run(api, config, is_leaving=leaving.is_set))
        stop = asyncio.create_task(_left(leaving))
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            work.result()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _left(leaving: asyncio.Event) -> None:
    await leaving.wait()
    _log.info("leaving", extra={"fields": {"seconds": LEAVING_S}})
    await asyncio.sleep(LEAVING_S)


async def run(api: KubeApi, config: AdmissionConfig, *, is_leaving: Callable[[], bool] = lambda: False) -> None:
    """Until cancelled. `is_leaving`: whether connections are to be closed with their next answer."""
    metrics = AdmissionMetrics()
    metrics.registry.register(Asked(api.requests))
    world = World(config.namespace)
    bundles = Bundles(api)
    serving = Serving(
        api,
        config.namespace,
        config.service,
        names=config.names,
        terms=config.terms,
        on_change=lambda keys: bundles.trust(keys.authorities),
    )
    guard = Gates(api, world, retired=lambda step: metrics.released.inc(), only_when_unwell=True)
    runners, is_ready = list[web.AppRunner](), asyncio.Event()
    try:
        if config.health:
            runners.append(await _started(_health(world, metrics, is_ready.is_set), config.health))
        await _certified(serving)
        runners.append(await _started(Webhook(Judge(world), metrics, is_leaving).app, config.listen, serving))
        _log.info("serving", extra={"fields": {"listen": f"{config.listen[0]}:{config.listen[1]}"}})
        async with asyncio.TaskGroup() as group:
            tasks = world.follow(api), serving.run(config.refresh_s), bundles.run(serving.refresh), guard.run()
            for task in (*tasks, _ready(world, is_ready)):
                group.create_task(task)
    finally:
        for runner in reversed(runners):
            await runner.cleanup()


async def _certified(serving: Serving) -> None:
    """Without a certificate there is nothing to serve: wait for the API server."""
    while True:
        try:
            await serving.refresh()
        except PrestageError as exc:
            _log.warning("no_certificate", extra={"fields": {"why": str(exc)}})
            await asyncio.sleep(_CERTIFICATE_RETRY_S)
        else:
            return


async def _ready(world: World, is_ready: asyncio.Event) -> None:
    news = world.subscription()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WHOLE_S):
            while not world.whole:
                await news.wait()
                news.clear()
    is_ready.set()


async def _started(app: web.Application, at: tuple[str, int], serving: Serving | None = None) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, *at, ssl_context=serving.context if serving else None).start()
    return runner


def _health(world: World, metrics: AdmissionMetrics, is_ready: Callable[[], bool]) -> web.Application:
    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(text="not yet\n", status=503)

    async def measured(request: web.Request) -> web.Response:
        metrics.whole.set(1.0 if world.whole else 0.0)
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/healthz", alive)
    app.router.add_get("/metrics", measured)
    return app
