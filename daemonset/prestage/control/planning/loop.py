"""Plans on every change that counts, a moment later, so that a burst is one plan; and carries the plan out.

change ─▶ a pause ─▶ collect ─▶ plan ─▶ board ─▶ NodeCaches that say something new

The pause is 10 ms where nothing was planned a moment ago, else as long as the last plan took, 20 to 100 ms. The plan itself is
made in a thread, from values that nobody changes: gates and conditions do not wait for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prestage.control.demand.resolving import Resolutions
from prestage.control.demand.world import World
from prestage.control.planning.access import released, worthless
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.policies import frozen
from prestage.control.planning.seeing import Seeing
from prestage.control.planning.states import whole
from prestage.control.planning.uses import Uses
from prestage.control.planning.writing import Writer, writes
from prestage.planner.apart import plan_apart
from prestage.planner.plan import Rules

_FIRST_S: Final = 0.01
_DEBOUNCE_S: Final = (0.02, 0.1)
_QUIET_S: Final = 0.25
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
        self._seeing = Seeing()
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
            last_s = self.timings.seconds[-1] if self.timings.seconds else 0.0
            quiet_s = math.inf if self.last_at_s is None else loop.time() - self.last_at_s
            await asyncio.sleep(pause_s(quiet_s=quiet_s, last_s=last_s))
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
        sent = self._writer.sent()
        now = self._now()
        seen = self._seeing.look(world, now, answers=resolutions.answers, sent=sent)
        collected, nodes = seen.collected, seen.nodes
        resolutions.forget_seen(collected.recorded)
        resolutions.want(collected.questions)
        before = self._board.last.plan if self._board.last is not None else None
        made = await asyncio.to_thread(
            plan_apart,
            seen.demands,
            nodes,
            seen.images,
            now,
            walls=seen.walls,
            rules=self._rules,
            uses=worthless(self._uses.look(collected.demands, now), collected.known, seen.stopped, seen.evicted),
            parts=seen.parts,
            before=before,
        )
        self._again_at = min(collected.changes_at, math.inf if made.again_at is None else made.again_at)
        made = released(made, nodes, collected.known, seen.stopped, seen.evicted)
        nodes = whole(nodes, seen.images)
        broken = seen.policies.broken
        made, withheld = frozen(made, nodes) if broken else (made, frozenset[str]())
        due = writes(made.nodes, seen.caches, sent)
        self.timings.took(time.perf_counter() - began_s)
        self._board.post(Posted(collected, tuple(nodes), made, dict(resolutions.failures), seen.stopped, broken, withheld))
        await self._writer.write(due, since_s=since_s)


def pause_s(*, quiet_s: float, last_s: float) -> float:
    """Before the next plan. `quiet_s`: since the last one ended; `last_s`: how long that took."""
    least_s, most_s = _DEBOUNCE_S
    return _FIRST_S if quiet_s >= _QUIET_S else min(most_s, max(least_s, last_s))
