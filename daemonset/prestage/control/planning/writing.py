"""NodeCaches: the plan of each node, by server-side apply, only where it says something new.

A node that came gets one, owned by its Node; one whose Node is gone or was made anew is deleted (the garbage collector would
do it too, later).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
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


_Foreign = tuple[str, str]
"""Name and UID of a NodeCache without its Node."""


@dataclass(frozen=True, slots=True)
class Writes:
    """What is to be done. `foreign`: name and UID of NodeCaches without their Node."""

    apply: tuple[NodePlan, ...] = ()
    foreign: tuple[_Foreign, ...] = ()


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
    """Sends while `run` runs, several nodes at once and one write a node: a slow API server holds up no plan. `sent` tells the
    next plan what was decided and is not shown yet. `again`: called when a write failed; `done`: when one ended that another for
    the same node waited for. `writes`: where they are counted; `reacted`: told of each how many seconds after its cause it is
    ready to be sent."""

    def __init__(
        self,
        api: Api,
        *,
        writes: Counter[str] | None = None,
        again: Callable[[], None] = lambda: None,
        done: Callable[[], None] = lambda: None,
        reacted: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._api, self._again, self._done, self._reacted = api, again, done, reacted
        self._sent: dict[str, tuple[NodePlan, float]] = {}
        self._writes = Counter[str]() if writes is None else writes
        self._queued: list[NodePlan | _Foreign] = []
        self._woken = asyncio.Event()
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._going: set[str] = set()
        self._waited_for: set[str] = set()

    def seen(self, cache: Object) -> None:
        """It is in the mirror now: where that is what was written, whatever comes after is somebody else's."""
        made = self._sent.get(name_of(cache))
        read = cache_of(cache) if made is not None else None
        if made is not None and read is not None and plan_in(read).version == made[0].version:
            del self._sent[name_of(cache)]

    def sent(self) -> dict[str, NodePlan]:
        """What was decided and is not seen yet."""
        now_s = asyncio.get_running_loop().time()
        self._sent = {name: entry for name, entry in self._sent.items() if now_s - entry[1] < _SEEN_AFTER_S}
        return {name: made for name, (made, _) in self._sent.items()}

    def forget(self) -> None:
        """A new time of leading begins: what another leader wrote meanwhile is the truth."""
        self._sent.clear()
        self._queued.clear()
        self._going.clear()
        self._waited_for.clear()

    async def run(self) -> None:
        """Never returns. Each failure is logged, and the rest goes on."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._woken.wait()
                self._woken.clear()
                queued, self._queued = self._queued, []
                for one in queued:
                    group.create_task(self._send(one))

    async def write(self, due: Writes, *, since_s: float | None = None) -> None:
        """Take it in. `since_s` (time.monotonic): its cause."""
        now_s = asyncio.get_running_loop().time()
        for name, uid in due.foreign:
            if self._begins(name):
                self._sent.pop(name, None)
                self._queued.append((name, uid))
        for made in due.apply:
            if self._begins(made.node):
                self._sent[made.node] = (made, now_s)
                self._queued.append(made)
                if since_s is not None:
                    self._reacted(time.monotonic() - since_s)
        self._woken.set()

    def _begins(self, name: str) -> bool:
        if name in self._going:
            self._waited_for.add(name)
            return False
        self._going.add(name)
        return True

    async def _send(self, one: NodePlan | _Foreign) -> None:
        name = one.node if isinstance(one, NodePlan) else one[0]
        try:
            async with self._limit:
                await (self._apply(one) if isinstance(one, NodePlan) else self._delete(*one))
        finally:
            self._going.discard(name)
            if name in self._waited_for:
                self._waited_for.discard(name)
                self._done()

    async def _apply(self, made: NodePlan) -> None:
        try:
            await self._api.apply(NODE_CACHES, body_of(made), manager=MANAGER, force=True)
        except PrestageError as exc:
            if self._sent.get(made.node, (None,))[0] is made:
                del self._sent[made.node]
            self._lost("apply", made.node, exc)
            return
        self._writes["nodecache"] += 1

    async def _delete(self, name: str, uid: str) -> None:
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
