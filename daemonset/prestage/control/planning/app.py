"""The planner put together: mirrors always, all else while it leads.

    World.run, Recorder.run            from start to end
    Election ─▶ Planning, Resolutions, Reporting, SERVICES     while the lease `prestage-planner` is held

A service that fails ends the process: the next one begins with what the API server has.
"""

from __future__ import annotations

import asyncio
import datetime
import signal
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from prestage.cacher.agent.logs import log
from prestage.control.asked import Asked
from prestage.control.beside import steering
from prestage.control.capacity.asking import asking
from prestage.control.capacity.told import Capacity
from prestage.control.demand import resolving
from prestage.control.demand.resolving import Resolutions
from prestage.control.demand.world import World
from prestage.control.health import health
from prestage.control.planning import forgetting, interpreter
from prestage.control.planning.board import Board
from prestage.control.planning.decision_log import recording
from prestage.control.planning.forgetting import Forgetting
from prestage.control.planning.loop import Planning
from prestage.control.planning.metrics import Meters, Tally
from prestage.control.planning.reporting import Reporting
from prestage.control.planning.together import Service, Together
from prestage.control.planning.writing import Writer
from prestage.kube.client import KubeApi
from prestage.kube.events import Recorder
from prestage.kube.leases import Election, Terms
from prestage.kube.mirror import Change, Synced
from prestage.kube.ports import Api, Resource
from prestage.kube.resources import NODE_CACHES
from prestage.kube.settings import KubeSettings
from prestage.planner.plan import Rules
from prestage.wire.broker_client import BrokerClient, BrokerSettings

LEASE: Final = "prestage-planner"
"""What admission looks at: while nobody renews it nothing is gated."""
CONTROLLER: Final = "prestage.dev/planner"
_STUCK_S: Final = 300.0
_GRACE_S: Final = 3.0


SERVICES: tuple[Service, ...] = (steering, recording)
"""More that runs under the same leadership: one line each."""


class Broker(resolving.Broker, forgetting.Broker, Protocol):
    """All that is asked of it."""


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """See the fields."""

    namespace: str
    broker: BrokerSettings
    health: tuple[str, int] = ("0.0.0.0", 8081)  # noqa: S104  a pod's own address
    """An empty host: everywhere."""
    kube: KubeSettings = KubeSettings(user_agent="prestage-planner")  # noqa: RUF009  frozen
    terms: Terms = Terms()  # noqa: RUF009  frozen
    rules: Rules = Rules(peers=False)  # noqa: RUF009  frozen
    services: tuple[Service, ...] = field(default_factory=lambda: SERVICES)
    capacity_buffers: bool = False
    """Ask the autoscaler for nodes where a StagingSchedule says so."""
    now: Callable[[], float] = time.time
    """The clock of windows and deadlines, which may jump; leases and pauses go by another."""


class Planner:
    """One replica. `me` must be unique."""

    def __init__(self, api: Api, broker: Broker, config: PlannerConfig, *, me: str | None = None) -> None:
        self._api, self._config = api, config
        self.me = me or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.world, self.board = World(api), Board()
        self.recorder = Recorder(api, controller=CONTROLLER, instance=self.me)
        self.tally = Tally(unsynced=lambda: self.world.unsynced)
        self.meters = Meters(self.board, self.tally)
        self.writer = Writer(
            api,
            writes=self.tally.writes,
            again=lambda: self.planning.wake_later(),
            done=lambda: self.planning.wake(),
            reacted=self.meters.reacted("nodecache"),
        )
        self.resolutions = Resolutions(broker, told=lambda: self.planning.wake(), asking=self.tally.asking)
        self.planning = Planning(self.world, self.writer, self.resolutions, self.board, rules=config.rules, now=config.now)
        self.planning.timings.told = self.meters.planned
        self.forgetting = Forgetting(self.world, broker)
        self.capacity = Capacity()
        self.reporting = Reporting(
            self.world,
            api,
            self.board,
            self.recorder,
            writes=self.tally.writes,
            settled=self.meters.settled,
            capacity=self.capacity,
            rules=config.rules,
            now=lambda: datetime.datetime.fromtimestamp(config.now(), datetime.UTC),
        )
        self.world.listen(self._listen)
        self._leading_since_s = 0.0

    @property
    def is_well(self) -> bool:
        """False where it leads and has not planned for minutes."""
        if not self.tally.is_leading:
            return True
        last_s = max(self.planning.last_at_s or 0.0, self._leading_since_s)
        return asyncio.get_running_loop().time() - last_s < _STUCK_S

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.world.run(), name="world")
            group.create_task(self.recorder.run(), name="events")
            group.create_task(self._elect(), name="election")

    async def _elect(self) -> None:
        await self.world.synced()  # who has not seen the cluster should not hold others back
        election = Election(self._api, name=LEASE, namespace=self._config.namespace, me=self.me, terms=self._config.terms)
        while True:
            await election.run(self._lead)

    async def _lead(self) -> None:
        self.writer.forget()
        self._leading_since_s = asyncio.get_running_loop().time()
        together = Together(self._api, self.world, self.board, self.recorder, self._config.namespace, reacted=self.meters.reacted)
        self.tally.is_leading = True
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self.planning.run(), self.resolutions.run(), self.reporting.run(), self.forgetting.run()):
                    group.create_task(work)
                for service in self._services():
                    group.create_task(_awaited(service, together))
                group.create_task(self.writer.run())
        finally:
            self.tally.is_leading = False

    def _services(self) -> tuple[Service, ...]:
        config = self._config
        if not config.capacity_buffers:
            return config.services
        return (*config.services, asking(self.capacity, config.rules, config.now, self.tally.writes))

    def _listen(self, resource: Resource, change: Change) -> None:
        if resource is NODE_CACHES and not isinstance(change, Synced):
            self.writer.seen(change.object)


async def serve(config: PlannerConfig) -> None:
    """Until SIGTERM or SIGINT."""
    interpreter.settle()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    async with await KubeApi.connect(config.kube) as api, BrokerClient(config.broker) as broker:
        planner = Planner(api, broker, config)
        planner.meters.registry.register(Asked(api.requests))
        await run(planner, config.health, stop)


async def run(
    planner: Planner, listen: tuple[str, int], stop: asyncio.Event, *, listening: Callable[[int], None] | None = None
) -> None:
    """Until `stop` is set. `listening`: told the port of /healthz."""
    async with AsyncExitStack() as ending:
        runner = web.AppRunner(
            health(planner.meters.registry, lambda: planner.is_well, otherwise="stuck"),
            access_log=None,
            shutdown_timeout=_GRACE_S,
        )
        await runner.setup()
        ending.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, listen[0] or None, listen[1]).start()
        if listening is not None:
            listening(runner.addresses[0][1])
        work, stopping = asyncio.ensure_future(planner.run()), asyncio.ensure_future(stop.wait())
        log("planner_started", fields={"me": planner.me})
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            log("planner_ended")


async def _awaited(service: Service, together: Together) -> None:
    await service(together)
