"""Prometheus metrics and health, on a TCP port of their own: what an operator watches. Names carry their units."""

from __future__ import annotations

import time
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prestage.cacher.agent.http import Api
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.stages import State
from prestage.cacher.errors import PrestageError
from prestage.cacher.store.budget import Usage


class AgentCollector(Collector):
    """Reads what the parts count anyway, at each scrape. `usage` is the last look of `Metrics`."""

    def __init__(self, service: Service, api: Api) -> None:
        self._service, self._api = service, api
        self.usage: Usage | None = None

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        tally = self._service.tally
        ready = GaugeMetricFamily("prestage_ready", "1 when it serves.", value=float(self._service.is_ready))
        yield ready
        if (usage := self.usage) is not None:
            disk = GaugeMetricFamily("prestage_store_bytes", "The store's account of its disk.", labels=["what"])
            for what in ("used", "reserved", "free", "margin", "limit"):
                disk.add_metric([what], getattr(usage, what))
            yield disk
        stages = GaugeMetricFamily("prestage_stages", "Stages by state.", labels=["state"])
        states = [stage.state for stage in self._service.all_stages()]
        for state in State:
            if state not in (State.DONE, State.FAILED):
                stages.add_metric([state], states.count(state))
        yield stages
        ended = CounterMetricFamily(
            "prestage_stages_ended", "Stages that ended, by outcome (docs/cli.md, kinds).", labels=["outcome"]
        )
        for outcome, count in tally.ended.items():
            ended.add_metric([outcome], count)
        yield ended
        staged = CounterMetricFamily("prestage_staged_bytes", "Bytes of stages that were done, by source.", labels=["source"])
        for source, count in tally.bytes_by_source.items():
            staged.add_metric([source], count)
        yield staged
        if (serving := self._service.serving) is not None:
            stats = serving.stats()
            yield CounterMetricFamily("prestage_served_bytes", "Bytes of blobs sent to peers.", value=stats.bytes)
            yield CounterMetricFamily("prestage_served_requests", "Requests of peers.", value=stats.requests)
            yield CounterMetricFamily(
                "prestage_served_requests_refused", "Requests of peers that were refused.", value=stats.refused
            )
            yield GaugeMetricFamily("prestage_serving_connections", "Connections of peers.", value=stats.active)
        yield CounterMetricFamily("prestage_evicted_bytes", "Bytes let go of.", value=tally.evicted_bytes)
        yield CounterMetricFamily("prestage_damaged_blobs", "Blobs found wrong.", value=tally.damaged)
        yield CounterMetricFamily("prestage_scrubbed_bytes", "Bytes read again at idle.", value=tally.scrubbed_bytes)
        yield CounterMetricFamily("prestage_requests", "Requests on the admin socket.", value=self._api.requests)
        yield CounterMetricFamily("prestage_requests_refused", "Requests answered 503.", value=self._api.refused)
        yield GaugeMetricFamily("prestage_listeners", "Streams that are followed.", value=self._api.listeners)
        yield GaugeMetricFamily("prestage_requests_active", "Requests in work.", value=self._api.active)


class Metrics:
    """The TCP application."""

    def __init__(self, service: Service, api: Api) -> None:
        self._service = service
        self._collector = AgentCollector(service, api)
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._beat = time.monotonic()

    def application(self) -> web.Application:
        """`/metrics`, `/healthz` (the loop turns), `/readyz` (it serves)."""
        application = web.Application(client_max_size=1 << 10)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        return application

    async def _metrics(self, _request: web.Request) -> web.Response:
        try:
            self._collector.usage = await self._service.usage()
        except PrestageError:
            self._collector.usage = None
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._service.is_ready:
            return web.Response(text="ok\n")
        return web.Response(text="ending\n", status=503)
