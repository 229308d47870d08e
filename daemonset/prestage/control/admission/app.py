"""`prestage control admission`: webhook, health and metrics, mirrors, certificate, caBundle, and the guard of gates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
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
    """Until SIGTERM or SIGINT; then within 5 s."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with await KubeApi.connect(KubeSettings(kubeconfig=config.kubeconfig, user_agent="prestage-admission")) as api:
        work = asyncio.create_task(run(api, config))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            work.result()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def run(api: KubeApi, config: AdmissionConfig) -> None:
    """Until cancelled."""
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
    runners = list[web.AppRunner]()
    try:
        if config.health:
            runners.append(await _started(_health(world, metrics), config.health))
        await _certified(serving)
        runners.append(await _started(Webhook(Judge(world), metrics).app, config.listen, serving))
        _log.info("serving", extra={"fields": {"listen": f"{config.listen[0]}:{config.listen[1]}"}})
        async with asyncio.TaskGroup() as group:
            for task in (world.follow(api), serving.run(config.refresh_s), bundles.run(), guard.run()):
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


async def _started(app: web.Application, at: tuple[str, int], serving: Serving | None = None) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, *at, ssl_context=serving.context if serving else None).start()
    return runner


def _health(world: World, metrics: AdmissionMetrics) -> web.Application:
    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def measured(request: web.Request) -> web.Response:
        metrics.whole.set(1.0 if world.whole else 0.0)
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/healthz", alive)
    app.router.add_get("/metrics", measured)
    return app
