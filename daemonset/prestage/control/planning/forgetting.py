"""Tells the broker, hourly, which owners of recorded templates are nowhere any more. It alone writes Artifacts, and waits longer.

Only while every mirror is whole, and only of Artifacts of which that says something new.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from prestage.api.artifacts import TemplateUse
from prestage.api.brokerage import RecordsAnswer, RecordsRequest
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.demand.world import KEPT, World
from prestage.control.forgetting import RecordTerms, after_look, living
from prestage.kube.ports import Object, namespace_of
from prestage.kube.resources import ARTIFACTS, PODS

EVERY_S: Final = 3600.0


class Broker(Protocol):
    """The part of `BrokerClient` that is used."""

    async def records(self, request: RecordsRequest, *, deadline_s: float | None = None) -> RecordsAnswer: ...


class Forgetting:
    """`run` while leading."""

    def __init__(
        self,
        world: World,
        broker: Broker,
        *,
        every_s: float = EVERY_S,
        terms: RecordTerms | None = None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._world, self._broker, self._every_s, self._now = world, broker, every_s, now
        self._terms = terms or RecordTerms()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.2))  # noqa: S311  jitter, no secret
            await self.step()

    async def step(self) -> None:
        """One look at all Artifacts, each for itself."""
        others = [one for kept in KEPT if kept.resource not in (PODS, ARTIFACTS) for one in self._world[kept.resource]]
        alive = living(self._world[PODS], others)
        for seen in list(self._world[ARTIFACTS]):
            request = asked(seen, alive, self._now(), self._terms)
            if request is None:
                continue
            try:
                await self._broker.records(request)
            except PrestageError as exc:
                log("records-not-told", level=logging.WARNING, fields={"why": type(exc).__name__})


def asked(artifact: Object, alive: set[str], now: datetime.datetime, terms: RecordTerms) -> RecordsRequest | None:
    """None: nothing new. Pure."""
    spec, status = artifact.get("spec"), artifact.get("status")
    found = status.get("templates") if isinstance(status, Mapping) else None
    try:
        rows = msgspec.convert(found, list[TemplateUse]) if found else []
    except msgspec.ValidationError:
        return None
    unseen = {row.uid for row in rows} - alive
    if not isinstance(spec, Mapping) or after_look(rows, unseen, now, terms) == rows:
        return None
    return RecordsRequest(namespace=namespace_of(artifact) or "", artifact=str(spec.get("digest")), unseen=sorted(unseen))
