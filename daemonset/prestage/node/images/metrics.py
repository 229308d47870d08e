"""Prometheus metrics and health of the images container. Labels are words of ours: no image, no artifact, no digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prestage.api.nodes import NodeCacheStatus
from prestage.cacher.errors import Misconfigured
from prestage.images.use import Use
from prestage.node.images.reporting import ImagesLook
from prestage.node.images.tally import Tally

_CLOSE_S = 2.0


class Observed(Protocol):
    """The part of `ImagesSync` that is shown."""

    tally: Tally

    def look(self) -> ImagesLook:
        """How things are."""
        ...

    def status(self) -> NodeCacheStatus:
        """As the NodeCache is told it."""
        ...


class ImagesCollector(Collector):
    """Reads what is counted anyway, at each scrape."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        look, status, tally = self._observed.look(), self._observed.status(), self._observed.tally
        yield _by("prestage_images", "Images by state.", "state", Counter(one.state for one in status.artifacts or ()))
        yield _by("prestage_images_bytes", "Compressed bytes of images.", "what", _bytes_of(status))
        if look.disk is not None:
            disk = {"total": look.disk.total_bytes, "free": look.disk.free_bytes}
            yield _by("prestage_images_disk_bytes", "containerd's file system.", "what", disk)
        if (way := look.way) is not None:
            moved = {"fetched": way.fetched or 0, "unpacked": way.unpacked or 0, "size": way.size_bytes or 0}
            yield _by("prestage_image_staging_bytes", "Of the image under way.", "what", moved)
        yield _counted("prestage_image_stages_ended", "Stages that ended (docs/cli.md, kinds).", "outcome", tally.ended)
        wasted = {use: tally.wasted_bytes[use] for use in (Use.MOVED, Use.UNUSED)}
        yield _counted("prestage_images_wasted_bytes", "Of images that went unused; moved: their tag had.", "why", wasted)
        yield CounterMetricFamily("prestage_images_fetched_bytes", "Of stages that were done.", value=tally.fetched_bytes)
        yield CounterMetricFamily("prestage_images_yielded", "Pulls that were given way.", value=tally.yielded)
        yield CounterMetricFamily("prestage_images_released", "Images let go of.", value=tally.released)
        runtime = GaugeMetricFamily("prestage_images_runtime", "1, of this containerd.", labels=["version", "snapshotter"])
        runtime.add_metric([look.setup.version, look.setup.snapshotter], 1)
        yield runtime


def _bytes_of(status: NodeCacheStatus) -> dict[str, int]:
    images = status.images
    stated = {} if images is None else {"used": images.used, "budget": images.budget, "wasted": images.wasted}
    return {what: int(value) for what, value in stated.items() if value is not None}


def _by(name: str, text: str, label: str, values: dict[str, int] | Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counted(name: str, text: str, label: str, values: dict[Use, int] | Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def application(observed: Observed) -> web.Application:
    """`/metrics`, `/healthz` (the loop turns)."""
    registry = CollectorRegistry()
    registry.register(ImagesCollector(observed))
    for collector in (ProcessCollector, PlatformCollector):
        collector(registry=registry)

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(registry), headers=headers)

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    made = web.Application(client_max_size=1 << 10)
    made.router.add_get("/metrics", metrics)
    made.router.add_get("/healthz", health)
    return made


async def serve(stack: AsyncExitStack, observed: Observed, listen: tuple[str, int]) -> None:
    """Until `stack` is closed.

    Raises:
        Misconfigured: nobody can listen there.
    """
    runner = web.AppRunner(application(observed), access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, port = listen
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        raise Misconfigured(f"cannot listen on {host}:{port}: {exc.strerror}", hint="give another --listen, or none") from exc
