"""/healthz and /metrics on a port of their own."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector, generate_latest


class Counts:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._answers = Counter(
            "prestage_broker_answers",
            "Questions answered, by path and class of the answer.",
            ["path", "outcome"],
            registry=self.registry,
        )

    def answered(self, path: str, outcome: str) -> None:
        """`outcome`: ok, or the class of the refusal."""
        self._answers.labels(path, outcome).inc()


def health(counts: Counts, is_well: Callable[[], bool]) -> web.Application:
    """`is_well`: it has seen the cluster, and serves."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_well() else web.Response(text="not yet\n", status=503)

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(counts.registry), headers=headers)

    made = web.Application(client_max_size=1 << 10)
    made.router.add_get("/healthz", healthz)
    made.router.add_get("/metrics", metrics)
    return made
