"""/healthz and /metrics of each part of the control plane, on a port of their own."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest


def health(registry: CollectorRegistry, is_well: Callable[[], bool], *, otherwise: str) -> web.Application:
    """`otherwise`: what /healthz says, with 503, where it is not well."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_well() else web.Response(text=f"{otherwise}\n", status=503)

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(registry), headers=headers)

    made = web.Application(client_max_size=1 << 10)
    made.router.add_get("/healthz", healthz)
    made.router.add_get("/metrics", metrics)
    return made
