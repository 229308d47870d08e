"""Plans on every change that counts, a moment later, so that a burst is one plan; and carries the plan out.

change ─▶ 50 ms (200 ms after long plans) ─▶ collect ─▶ plan ─▶ board ─▶ NodeCaches that say something new
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.policies import CachePolicy
from prestage.control.demand.collecting import Collector, is_enabled
from prestage.control.demand.resolving import Resolutions
from prestage.control.demand.walls import wall_of
from prestage.control.demand.world import World
from prestage.control.planning.access import allowed, blocked, evicting, released, worthless
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.policies import frozen, read_policies
from prestage.control.planning.states import Caches, States
from prestage.control.planning.uses import Uses
from prestage.control.planning.writing import Writer, writes
from prestage.kube.ports import Object, metadata_of, name_of
from prestage.kube.resources import ARTIFACTS, CACHE_POLICIES, NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STORE_POOLS
from prestage.planner.demands import Wall
from prestage.planner.plan import Rules, plan

_DEBOUNCE_S: Final = (0.05, 0.2)
_ANYWAY_S: Final = 60.0
"""A plan is made at least so often: clocks move, and a write that was lost is made good."""
_AGAIN_S: Final = 1.0


@dataclass(slots=True)
class Timings:
    """For metrics. `seconds`: of the last plans, collecting included, writing not."""

    plans: int = 0
    seconds: list[float] = field(default_factory=list)
    told: Callable[[float], None] = lambda seconds: None

    def took(self, seconds: float) -> None:
        """One plan."""
        self.plans += 1
        self.seconds = [*self.seconds[-199:], seconds]
        self.told(seconds)


class Planning:
    """`run` while leading. What it learned of the cluster is in `world` before and after."""

    def __init__(
        self,
        world: World,
        writer: Writer,
        resolutions: Resolutions,
        board: Board,
        *,
        rules: Rules | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._world, self._writer, self._resolutions, self._board = world, writer, resolutions, board
        self._rules, self._now = rules or Rules(), now
        self._collector, self._caches, self._states = Collector(), Caches(), States()
        self._news = world.news()
        self._uses = Uses(self._rules.worth)
        self._again_at = math.inf
        self.timings = Timings()
        self.last_at_s: float | None = None
        """On the loop's clock: when it last went all the way round."""

    def wake(self) -> None:
        """Something that is not in the mirrors changed: an answer of the broker."""
        self._news.set()

    def wake_later(self) -> None:
        """A write failed: once more in a moment."""
        asyncio.get_running_loop().call_later(_AGAIN_S, self._news.set)

    async def run(self) -> None:
        """Never returns."""
        await self._world.synced()
        loop = asyncio.get_running_loop()
        self._news.set()
        while True:
            try:
                async with asyncio.timeout(self._quiet_s()):
                    await self._news.wait()
            except TimeoutError:
                self._news.set()
            least_s, most_s = _DEBOUNCE_S
            last_s = self.timings.seconds[-1] if self.timings.seconds else 0.0
            await asyncio.sleep(min(most_s, max(least_s, last_s)))
            since_s = self._news.since_s
            self._news.clear()
            await self.step(since_s)
            self.last_at_s = loop.time()

    def _quiet_s(self) -> float:
        """Until the next plan where nothing happens: a window opens, a stage has to begin."""
        return min(_ANYWAY_S, max(0.0, self._again_at - self._now()))

    async def step(self, since_s: float | None = None) -> None:
        """One plan, carried out. `since_s`: when its cause was read."""
        began_s = time.perf_counter()
        world, resolutions = self._world, self._resolutions
        caches = self._caches.look(world[NODE_CACHES])
        sent = self._writer.sent()
        now = self._now()
        collected = self._collector.collect(world, resolutions.answers, now=now)
        resolutions.forget_seen(collected.recorded)
        resolutions.want(collected.questions)
        nodes = self._states.of(world[NODES], caches, world[STORE_POOLS], sent, now)
        policies = read_policies(world[CACHE_POLICIES])
        walls = walls_of(world[NAMESPACES], policies.known)
        stopped = blocked(world[ARTIFACTS], collected.known)
        evicted = evicting(world[STAGED_MODELS], stopped)
        before = self._board.last.plan if self._board.last is not None else None
        made = plan(
            allowed(collected, stopped, evicted),
            nodes,
            now,
            walls=walls,
            rules=self._rules,
            uses=worthless(self._uses.look(collected.demands, now), collected.known, stopped, evicted),
            before=before,
        )
        self._again_at = min(collected.changes_at, math.inf if made.again_at is None else made.again_at)
        made = released(made, nodes, collected.known, stopped, evicted)
        made, withheld = frozen(made, nodes) if policies.broken else (made, frozenset[str]())
        due = writes(made.nodes, caches, sent)
        self.timings.took(time.perf_counter() - began_s)
        self._board.post(Posted(collected, tuple(nodes), made, dict(resolutions.failures), stopped, policies.broken, withheld))
        await self._writer.write(due, since_s=since_s)


def walls_of(namespaces: Iterable[Object], policies: Sequence[CachePolicy]) -> dict[str, Wall]:
    """Of each namespace that is in."""
    return {name_of(one): wall_of(labels_of(one), policies) for one in namespaces if is_enabled(one)}


def labels_of(seen: Object) -> dict[str, str]:
    """As text."""
    found = metadata_of(seen).get("labels")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
