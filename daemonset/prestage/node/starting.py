"""The startup taint: a new node that comes with it takes no pods until what is planned for it is there, or its time is over.

    what is to be staged now is whole, and the planner has known the node for a while    taken off
    so many seconds after the Node was made, or since we saw the taint                   taken off, whatever the plan says
    none of both                                                                        it stays, and we look again

How many seconds is what the StorePools that select the node say, the least of them, else DEFAULT_S. They count from the Node's
own making, so that an agent that starts anew goes on counting; and from our own first sight of it, for a clock that is behind
must not keep a node away. While the API server is away nobody can take a taint off: it goes once there is an answer.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import EntryType, NodeCache, PlannedArtifact, State
from prestage.api.policies import STARTUP_TAINT, StorePool
from prestage.api.reading import Invalid, read
from prestage.api.selecting import selects
from prestage.cacher.agent.logs import log
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import PrestageError
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object, metadata_of, name_of, uid_of, version_of
from prestage.kube.resources import NODES, STORE_POOLS
from prestage.node.plan import Plan

DEFAULT_S: Final = 120.0
"""Where no StorePool says how long."""
KNOWN_S: Final = 10.0
"""A planner that has known the node's store for so long has told what it wants there: plans follow a report within seconds."""
LOOK_S: Final = 1.0
AGAIN_S: Final = (2.0, 30.0)
"""After a request that failed: twice as long each time."""
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Filling:
    """How far the node is."""

    plan: Plan = field(default_factory=Plan)
    is_current: bool = False
    """It was read since this agent began: not one that was kept from before."""
    known_s: float | None = None
    """Since when the API server has our report (monotonic); None: it has none of this agent."""
    whole: frozenset[ArtifactId] = frozenset()
    """Models in the store; images by the word of their container."""


def lacking(filling: Filling, ends_at: float) -> list[PlannedArtifact]:
    """What is to be staged and is not there. What is wanted only after `ends_at` (epoch) keeps no pod away."""
    return [
        one
        for one in (*filling.plan.to_stage, *filling.plan.images)
        if ArtifactId(one.digest) not in filling.whole and (one.ready_by is None or one.ready_by.timestamp() <= ends_at)
    ]


def warm_images(seen: NodeCache) -> frozenset[ArtifactId]:
    """By what the images container has written."""
    told = (seen.status.artifacts if seen.status is not None else None) or ()
    return frozenset(ArtifactId(one.digest) for one in told if one.type is EntryType.IMAGE and one.state is State.WARM)


def is_filled(filling: Filling, ends_at: float, now_s: float) -> bool:
    """`now_s`: monotonic."""
    is_known = filling.is_current and filling.known_s is not None and now_s - filling.known_s >= KNOWN_S
    return is_known and not lacking(filling, ends_at)


def others(node: Object) -> list[object] | None:
    """Its taints without ours; None: ours is not there."""
    spec = node.get("spec")
    taints = spec.get("taints") if isinstance(spec, Mapping) else None
    found = list(taints) if isinstance(taints, Sequence) else []
    left = [one for one in found if not (isinstance(one, Mapping) and one.get("key") == STARTUP_TAINT)]
    return left if len(left) < len(found) else None


def made_at(node: Object) -> float | None:
    """When the Node was made; None where that cannot be read."""
    try:
        made = datetime.datetime.fromisoformat(str(metadata_of(node).get("creationTimestamp")))
    except ValueError:
        return None
    return made.timestamp() if made.tzinfo is not None else None


def most_s(node: Object, pools: Iterable[Object]) -> float:
    """The least that a StorePool of the node says."""
    labels = metadata_of(node).get("labels")
    known = {str(key): str(value) for key, value in labels.items()} if isinstance(labels, Mapping) else {}
    said = list[float]()
    for seen in pools:
        try:
            spec = read(StorePool, seen).spec
        except Invalid:
            continue
        if spec.startup_taint is not None and selects(spec.node_selector, known):
            said.append(float(spec.startup_taint.max_seconds))
    return min(said, default=DEFAULT_S)


class Starting:
    """Of one node. `look`: how far it is now."""

    def __init__(
        self,
        node: str,
        look: Callable[[], Filling],
        *,
        now: Callable[[], float] = time.time,
        again_s: tuple[float, float] = AGAIN_S,
    ) -> None:
        self._node, self._look, self._now, self._again_s = node, look, now, again_s
        self._seen_s: float | None = None

    async def run(self, api: Api) -> None:
        """Until the taint is off, or where there is none. Requests that fail are made again, for ever: they get seldom."""
        pause_s, longest_s = self._again_s
        while True:
            try:
                await self._turn(api)
            except Conflict:
                await asyncio.sleep(0.1)  # somebody else wrote the Node: read it again
            except Missing:
                return  # the Node is gone, and our pod will follow
            except PrestageError as exc:
                fields = {"node": self._node, "message": exc.message, "again_in_s": pause_s}
                log("startup_taint_waits", level=logging.WARNING, fields=fields)
                await asyncio.sleep(pause_s)
                pause_s = min(longest_s, pause_s * 2)
            else:
                return

    async def _turn(self, api: Api) -> None:
        """Read the Node, wait, take the taint off."""
        node = await api.get(NODES, self._node)
        if others(node) is None:
            return
        if self._seen_s is None:
            self._seen_s = time.monotonic()
        limit_s = most_s(node, await _pools(api))
        why = await self._waited(node, limit_s)
        node = await api.get(NODES, self._node)  # its taints may be others by now
        if (left := others(node)) is not None:
            await self._lift(api, node, left)
            log("startup_taint_lifted", fields={"node": self._node, "why": why, "max_s": limit_s})

    async def _waited(self, node: Object, limit_s: float) -> str:
        """Until it may go; why it may."""
        assert self._seen_s is not None
        made = made_at(node)
        while True:
            now_s, now = time.monotonic(), self._now()
            left_s = min(self._seen_s + limit_s - now_s, limit_s if made is None else made + limit_s - now)
            filling = self._look()
            if is_filled(filling, now + left_s, now_s):
                return "filled"
            if left_s <= 0:
                return f"time is over, {len(lacking(filling, now))} to be staged are not there"
            await asyncio.sleep(min(LOOK_S, left_s))

    async def _lift(self, api: Api, node: Object, left: list[object]) -> None:
        """Only where nobody changed the Node meanwhile: what others put there stays."""
        head = {"uid": uid_of(node), "resourceVersion": version_of(node)}
        await api.patch(NODES, name_of(node), {"metadata": head, "spec": {"taints": left or None}})


async def _pools(api: Api) -> list[Object]:
    """None where the cluster does not know the kind: its CRDs come later, or are replaced."""
    found, rest = list[Object](), None
    while True:
        try:
            page = await api.page(STORE_POOLS, limit=_PAGE, rest=rest)
        except Missing:
            return []
        found += page.items
        if (rest := page.rest) is None:
            return found
