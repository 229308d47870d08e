"""Artifacts that pods wait for: one stage each, followed for as long as somebody waits, and a while longer.

The kubelet's call ends after two minutes and comes again: a stage that was taken back in between would begin anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from prestage.cacher.errors import Busy, Full, NotFound, PrestageError, Unavailable
from prestage.node.csi.progress import Progress

LINGER_S = 150.0
"""Longer than the kubelet's longest back-off (2 min 2 s)."""
AGAIN_S = 1.0
FULL_S = 10.0
"""An evict may make room: whoever waits longer for some is told, and waits on at his next call."""


class Agent(Protocol):
    """The part of `AgentClient` that stages."""

    def stage(self, artifact: str) -> AsyncGenerator[dict[str, object]]:
        """Events up to `done`; raises what came instead."""
        ...


@dataclass(slots=True, eq=False)
class Staging:
    """One artifact on its way."""

    artifact: str
    progress: Progress = field(default_factory=Progress)
    waiting: int = 0
    told: set[str] = field(default_factory=set)
    """Who knows that there is no room."""
    task: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """The last that was heard: it does not fit."""
        return self.progress.trouble_kind == Full.kind


class Stagings:
    """All of them. On the loop; close it."""

    def __init__(self, agent: Agent, *, linger_s: float = LINGER_S) -> None:
        self._agent, self._linger_s = agent, linger_s
        self._all: dict[str, Staging] = {}

    @contextmanager
    def following(self, artifact: str) -> Iterator[Staging]:
        """Begin to stage, or join."""
        staging = self._all.get(artifact)
        if staging is None or staging.task is None or staging.task.done():
            staging = self._all[artifact] = Staging(artifact)
            staging.task = asyncio.create_task(self._follow(staging), name=f"staging {artifact}")
        staging.waiting += 1
        try:
            yield staging
        finally:
            staging.waiting -= 1
            asyncio.get_running_loop().call_later(self._linger_s, self._let_go, staging)

    def _let_go(self, staging: Staging) -> None:
        if not staging.waiting and staging.task is not None:
            staging.task.cancel()
            if self._all.get(staging.artifact) is staging:
                del self._all[staging.artifact]

    async def _follow(self, staging: Staging) -> None:
        while True:
            try:
                async with aclosing(self._agent.stage(staging.artifact)) as events:
                    async for event in events:
                        staging.progress.take(event)
                return
            except (Unavailable, Busy, Full, NotFound) as exc:
                staging.progress.trouble, staging.progress.trouble_kind = exc.message, exc.kind
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """End them."""
        tasks = [staging.task for staging in self._all.values() if staging.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._all.clear()


async def ended(staging: Staging, timeout_s: float, *, who: str) -> bool:
    """True: it is whole. False: it takes longer.

    Raises:
        Full: there is no room; told `who` soon the first time, later when the time is up, for it may come.
        PrestageError: it will not become so by waiting.
    """
    assert staging.task is not None
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + timeout_s
    while not staging.task.done() and loop.time() < ends_s:
        await asyncio.wait({staging.task}, timeout=min(FULL_S, ends_s - loop.time()))
        if staging.is_full and who not in staging.told:
            break
    if not staging.task.done():
        if staging.is_full:
            staging.told.add(who)
            raise Full(staging.progress.trouble)
        return False
    if staging.task.cancelled():
        raise Unavailable("the stage was ended", hint="the kubelet asks again")
    if (error := staging.task.exception()) is not None:
        if isinstance(error, PrestageError):
            raise error
        raise error
    return True
