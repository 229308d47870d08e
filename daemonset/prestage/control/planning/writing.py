"""NodeCaches: the plan of each node, by server-side apply, only where it says something new.

A node that came gets one, owned by its Node; one whose Node is gone or was made anew is deleted (the garbage collector would
do it too, later).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.nodes import NodeCache
from prestage.api.reading import written
from prestage.api.values import Metadata, OwnerReference
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.planning.states import SeenCache, cache_of, plan_in, spec_of
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object, name_of
from prestage.kube.resources import NODE_CACHES
from prestage.planner.plans import NodePlan

MANAGER: Final = "prestage-planner"
_AT_ONCE: Final = 16
_SEEN_AFTER_S: Final = 15.0
"""What was written and is not seen for so long is written again."""


def body_of(made: NodePlan) -> Object:
    """What is applied."""
    owner = OwnerReference(api_version="v1", kind="Node", name=made.node, uid=made.uid)
    return written(NodeCache(metadata=Metadata(name=made.node, owner_references=[owner]), spec=spec_of(made)))


@dataclass(frozen=True, slots=True)
class Writes:
    """What is to be done. `foreign`: name and UID of NodeCaches without their Node."""

    apply: tuple[NodePlan, ...] = ()
    foreign: tuple[tuple[str, str], ...] = ()


def writes(plans: Mapping[str, NodePlan], caches: Mapping[str, SeenCache], sent: Mapping[str, NodePlan]) -> Writes:
    """`caches` as they were seen; `sent`: what was written since."""
    foreign = {
        name: seen.mark[0]
        for name, seen in caches.items()
        if (made := plans.get(name)) is None or (seen.plan is not None and seen.plan.uid != made.uid)
    }
    due = list[NodePlan]()
    for name, made in sorted(plans.items()):
        seen = caches.get(name)
        there = sent.get(name) or (seen.plan if seen is not None else None)
        if name not in foreign and (there is None or not made.says_what(there)):
            due.append(made)
    return Writes(tuple(due), tuple(sorted(foreign.items())))


class Writer:
    """`sent` tells the next plan: what was decided stands before the API server shows it. `again`: called when a write failed.
    `writes`: where they are counted; `reacted`: told of each how many seconds after its cause it is ready to be sent."""

    def __init__(
        self,
        api: Api,
        *,
        writes: Counter[str] | None = None,
        again: Callable[[], None] = lambda: None,
        reacted: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._api, self._again, self._reacted = api, again, reacted
        self._sent: dict[str, tuple[NodePlan, float]] = {}
        self._writes = Counter[str]() if writes is None else writes

    def seen(self, cache: Object) -> None:
        """It is in the mirror now: where that is what was written, whatever comes after is somebody else's."""
        made = self._sent.get(name_of(cache))
        read = cache_of(cache) if made is not None else None
        if made is not None and read is not None and plan_in(read).version == made[0].version:
            del self._sent[name_of(cache)]

    def sent(self) -> dict[str, NodePlan]:
        """What was written and is not seen yet."""
        now_s = asyncio.get_running_loop().time()
        self._sent = {name: entry for name, entry in self._sent.items() if now_s - entry[1] < _SEEN_AFTER_S}
        return {name: made for name, (made, _) in self._sent.items()}

    def forget(self) -> None:
        """A new time of leading begins: what another leader wrote meanwhile is the truth."""
        self._sent.clear()

    async def write(self, due: Writes, *, since_s: float | None = None) -> None:
        """All of it, several at once; each failure is logged, and the rest goes on. `since_s` (time.monotonic): its cause."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def limited(work: Awaitable[None]) -> None:
            async with limit:
                await work

        if since_s is not None:
            for _ in due.apply:
                self._reacted(time.monotonic() - since_s)
        async with asyncio.TaskGroup() as group:
            for name, uid in due.foreign:
                group.create_task(limited(self._delete(name, uid)))
            for made in due.apply:
                group.create_task(limited(self._apply(made)))

    async def _apply(self, made: NodePlan) -> None:
        try:
            await self._api.apply(NODE_CACHES, body_of(made), manager=MANAGER, force=True)
        except PrestageError as exc:
            self._lost("apply", made.node, exc)
            return
        self._writes["nodecache"] += 1
        self._sent[made.node] = (made, asyncio.get_running_loop().time())

    async def _delete(self, name: str, uid: str) -> None:
        self._sent.pop(name, None)
        try:
            await self._api.delete(NODE_CACHES, name, uid=uid)
        except (Missing, Conflict):
            return
        except PrestageError as exc:
            self._lost("delete", name, exc)
            return
        self._writes["nodecache"] += 1

    def _lost(self, verb: str, name: str, exc: PrestageError) -> None:
        self._writes["failed"] += 1
        log("node_cache_not_written", level=logging.WARNING, fields={"verb": verb, "node": name, "error": str(exc)})
        self._again()
