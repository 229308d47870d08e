"""What the agent does unasked, one task each: look after the disk, and after holds that are over."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial

from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.service import Service
from prestage.cacher.errors import PrestageError
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store.quarantine import DamageEvent
from prestage.cacher.store.scrubber import Scrubber
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.schedule import Schedule

RATE_LOOK_S = 1.0
SCRUB_PORTION_BYTES = 16 << 20
"""Read at once: a stage that comes waits for no more than this."""
SCRUB_IDLE_S = 60.0
"""How soon it is looked again whether some blob is due."""
HEAL_AGAIN_S = 60.0
"""After a heal that could not even be asked for: the disk is full or failed."""


class Care:
    """Its tasks are `run` methods that never return. A failing disk is said once, and looked at again."""

    def __init__(self, store: Store, service: Service, config: AgentConfig) -> None:
        self._store, self._service, self._config = store, service, config
        self._trouble: dict[str, str] = {}
        self._found: list[DamageEvent] = []
        self._is_scrubbed = False
        self._heal_at = 0.0
        """When to look for all that is damaged and held, by the monotonic clock."""

    async def give_room_back(self) -> None:
        """Another process that fills the disk is answered within some seconds."""
        while True:
            await asyncio.sleep(self._config.pressure_interval_s)
            await self._once("give_room_back", self._give_back)

    def _give_back(self) -> None:
        self._store.room.give_back()

    async def sweep(self) -> None:
        """Holds whose time or process is over, and the trees that only they kept."""
        while True:
            await asyncio.sleep(self._config.care_interval_s)
            await self._once("sweep", self._sweep)

    def _sweep(self) -> None:
        self._store.sweep()

    async def follow_serving_rate(self, serving: Serving, schedule: Schedule) -> None:
        """The cap on what goes out, by time of day."""
        while True:
            serving.set_rate(schedule.rate_at(time.time()))
            await asyncio.sleep(RATE_LOOK_S)

    async def scrub(self) -> None:
        """Read every blob again while nothing is being staged, at a bounded rate; what is found wrong is healed if it is held."""
        rate, portion = self._config.scrub_bytes_per_s, SCRUB_PORTION_BYTES
        if rate <= 0:
            return
        scrubber = self._store.damage.scrubber()
        while True:
            began = time.monotonic()
            if began >= self._heal_at:
                self._heal_at = math.inf
                await self._heal(self._service.healer.heal_what_is_held)
            if self._service.is_idle:
                await self._once("scrub", partial(self._scrub, scrubber, portion))
                for event in self._found:
                    self._service.changed()
                    await self._heal(partial(self._service.healer.found, event))
                self._found.clear()
            pause_s = SCRUB_IDLE_S if self._is_scrubbed else portion / rate - (time.monotonic() - began)
            await asyncio.sleep(max(pause_s, 0.05))

    def _scrub(self, scrubber: Scrubber, portion: int) -> None:
        step = scrubber.step(portion, older_than_s=self._config.scrub_every_s)
        self._is_scrubbed = step.is_idle
        self._found.extend(step.events)
        self._service.tally.scrubbed_bytes += step.bytes

    async def _heal(self, call: Callable[[], Awaitable[None]]) -> None:
        if not await self._tried("heal", call):
            self._heal_at = time.monotonic() + HEAL_AGAIN_S

    async def _once(self, what: str, call: Callable[[], None]) -> None:
        await self._tried(what, lambda: self._service.blocking(call))

    async def _tried(self, what: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether it went well."""
        try:
            await call()
        except PrestageError as exc:
            if self._trouble.get(what) != exc.message:
                log("care_trouble", fields={"what": what, "kind": exc.kind, "message": exc.message})
            self._trouble[what] = exc.message
            return False
        self._trouble.pop(what, None)
        return True
