"""How much is resolved at once: no namespace keeps the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prestage.api.nodes import ErrorClass
from prestage.control.broker.refusals import No


@dataclass(slots=True)
class _Lane:
    slots: asyncio.Semaphore
    inside: int = 0


@dataclass(slots=True)
class Slots:
    """`total` at once, `each` of one namespace; `waiting` of one namespace in all, the rest is told to come again."""

    total: int = 12
    each: int = 3
    waiting: int = 64
    _all: asyncio.Semaphore = field(init=False)
    _lanes: dict[str, _Lane] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._all = asyncio.Semaphore(self.total)

    @asynccontextmanager
    async def of(self, namespace: str) -> AsyncIterator[None]:
        """Raises No where too many of the namespace wait already."""
        lane = self._lanes.setdefault(namespace, _Lane(asyncio.Semaphore(self.each)))
        if lane.inside >= self.waiting:
            raise No(ErrorClass.BUSY, "TooManyAtOnce", f"{lane.inside} questions of {namespace} wait already", retry_after_s=5.0)
        lane.inside += 1
        try:
            async with lane.slots, self._all:
                yield
        finally:
            lane.inside -= 1
            if not lane.inside:
                self._lanes.pop(namespace, None)
