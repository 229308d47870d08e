"""Stand-ins for the agents of many nodes: they say of each planned artifact that it is Staging, and a moment later Warm.

They move no bytes and mount nothing. What they write is what an agent writes: its NodeCache's status, by server-side apply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import Action, NodeCache, State
from prestage.api.reading import read
from prestage.kube.errors import Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Appeared, Changed
from prestage.kube.ports import Api, name_of
from prestage.kube.resources import NODE_CACHES

MANAGER: Final = "prestage-agent"
_AT_ONCE: Final = 16
_BUDGET: Final = "8Ti"
_RATE: Final = "1Gi"


@dataclass(slots=True)
class _Node:
    held: dict[str, State] = field(default_factory=dict)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class StandIns:
    """`run` is a task of the caller. Times are `clock`'s: seconds that only grow."""

    def __init__(self, api: Api, nodes: Container[str], *, stage_s: float, clock: Callable[[], float]) -> None:
        self._api, self._names, self._stage_s, self._clock = api, nodes, stage_s, clock
        self._nodes: dict[str, _Node] = {}
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.told = asyncio.Condition()
        """Notified at each thing that happened."""
        self.reported: set[str] = set()
        """Nodes whose first status was taken."""
        self.planned_at: dict[str, float] = {}
        """Artifact to when it was first seen in a NodeCache."""
        self.warm_at: dict[str, float] = {}
        """Artifact to when it was first taken that it is warm."""

    async def run(self) -> None:
        """For ever."""
        follower = Follower(self._api, NODE_CACHES)
        async with asyncio.TaskGroup() as group, aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Appeared | Changed) and name_of(change.object) in self._names:
                    cache = read(NodeCache, change.object)
                    planned = [one.digest for one in cache.spec.artifacts or () if one.action is Action.STAGE]
                    for digest in planned:
                        self.planned_at.setdefault(digest, self._clock())
                    self._begin(group, cache.metadata.name, planned)

    def _begin(self, group: asyncio.TaskGroup, name: str, planned: list[str]) -> None:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node()
            group.create_task(self._join(name, node))
        fresh = [digest for digest in planned if digest not in node.held]
        node.held |= dict.fromkeys(fresh, State.STAGING)
        if fresh:
            group.create_task(self._stage(name, node, fresh))

    async def _join(self, name: str, node: _Node) -> None:
        await self._say(name, node)
        self.reported.add(name)
        await self._notify()

    async def _stage(self, name: str, node: _Node, digests: list[str]) -> None:
        await self._say(name, node)
        await asyncio.sleep(self._stage_s)
        node.held |= dict.fromkeys(digests, State.WARM)
        await self._say(name, node)
        for digest in digests:
            self.warm_at.setdefault(digest, self._clock())
        await self._notify()

    async def _say(self, name: str, node: _Node) -> None:
        async with node.writing, self._limit:
            held = [{"digest": digest, "state": str(state)} for digest, state in sorted(node.held.items())]
            status = {"budget": _BUDGET, "used": "0", "storeID": f"stand-in-{name}", "originRateP10": _RATE, "artifacts": held}
            body = {"metadata": {"name": name}, "status": status}
            try:
                await self._api.apply(NODE_CACHES, body, manager=MANAGER, force=True, subresource="status")
            except Missing:
                return  # the node went with its bench

    async def _notify(self) -> None:
        async with self.told:
            self.told.notify_all()
