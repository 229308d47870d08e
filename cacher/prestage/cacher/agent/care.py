"""What the agent does unasked, one task each: look after the disk, and after holds that are over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.service import Service
from prestage.cacher.errors import PrestageError
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.schedule import Schedule

RATE_LOOK_S = 1.0


class Care:
    """Its tasks are `run` methods that never return. A failing disk is said once, and looked at again."""

    def __init__(self, store: Store, service: Service, config: AgentConfig) -> None:
        self._store, self._service, self._config = store, service, config
        self._trouble: dict[str, str] = {}

    async def give_room_back(self) -> None:
        """Another process that fills the disk is answered within some seconds."""
        while True:
            await asyncio.sleep(self._config.pressure_interval_s)
            await self._once("give_room_back", self._give_back)

    def _give_back(self) -> None:
        self._store.give_back()

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

    async def _once(self, what: str, call: Callable[[], None]) -> None:
        try:
            await self._service.blocking(call)
        except PrestageError as exc:
            if self._trouble.get(what) != exc.message:
                log("care_trouble", fields={"what": what, "kind": exc.kind, "message": exc.message})
            self._trouble[what] = exc.message
        else:
            self._trouble.pop(what, None)
