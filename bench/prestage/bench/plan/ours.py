"""The product: its planner, called as the control plane calls it, and its agent's order of letting go.

What a node is told at the next tick is begun then; with one node every event is a tick, as the control plane plans 50 ms after
each. A pod's own pull never waits for a plan.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prestage.api.nodes import Action, State
from prestage.bench.plan.cluster import Node, evict
from prestage.bench.plan.simulate import Run
from prestage.bench.plan.traces import Announcement, Start
from prestage.planner.demands import Demand, ToldBy, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Assignment, NodePlan, Plan
from prestage.planner.rules import Rules
from prestage.planner.values import Use, used

_GRACE_S = 900.0
"""What was said and did not come is waited for so long."""
_WARM, _STAGING = Held(State.WARM), Held(State.STAGING)


@dataclass(slots=True)
class Ours:
    """`is_listening`: False: it is told nothing ahead. `measured`: the share of the true rate that the planner knows of."""

    rules: Rules = field(default_factory=lambda: Rules(peers=False))
    tick_s: float = 0.0
    is_listening: bool = True
    is_down: bool = False
    measured: float = 0.9
    plans_cpu_s: list[float] = field(default_factory=list)
    """CPU of each plan, without what the simulator does for it."""
    plan: Plan | None = None
    _count_said: int = 0
    _said: dict[int, Announcement] = field(default_factory=dict)
    _uses: dict[str, Use] = field(default_factory=dict)
    _feasible: frozenset[str] = frozenset()
    _states: dict[str, NodeState] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)
    _asked_at: float | None = None
    _seen: int = 0
    _planning: bool = False

    def begin(self, run: Run) -> None:
        """Knows the nodes."""
        self._feasible = frozenset(node.name for node in run.cluster.nodes)
        self._stale = set(self._feasible)

    def told(self, run: Run, said: Announcement) -> None:
        """A window: from the moment that was said until some time after it."""
        if self.is_listening:
            self._count_said += 1
            self._said[self._count_said] = said
            self._ask(run, run.now)

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """By the plan that counts this pod, as the agent waits for it where all is listed; without a planner what is listed goes
        last of all."""
        self._count(run, start)
        self._stale.add(node.name)
        is_full = node.used_bytes + start.size_bytes > node.budget_bytes
        if (self.tick_s == 0.0 or is_full) and not self.is_down:
            self._plan(run, bound=(node.name, start))
        return evict(run.cluster, node, start.size_bytes, [*self._order(node), *self._listed(node)])

    def changed(self, run: Run, node: Node) -> None:
        """The next plan will see it."""
        self._stale.add(node.name)
        self._count_seen(run)
        self._ask(run, run.now + self.tick_s)

    def _ask(self, run: Run, moment: float) -> None:
        if self._planning or (self._asked_at is not None and self._asked_at <= moment):
            return
        self._asked_at = moment
        run.at(moment, lambda: self._tick(run, moment), order=4)

    def _tick(self, run: Run, moment: float) -> None:
        if self._asked_at != moment:
            return
        self._asked_at = None
        if self.is_down:
            self._ask(run, run.now + 15.0)
            return
        self._planning = True
        made = self._plan(run)
        self._carry_out(run, made)
        self._planning = False
        if made.again_at is not None:
            self._ask(run, max(made.again_at, run.now + 1.0))

    def _plan(self, run: Run, *, bound: tuple[str, Start] | None = None) -> Plan:
        names = {node.name for node in run.cluster.nodes}
        if names != self._feasible:
            self._feasible = frozenset(names)
            self._states = {name: state for name, state in self._states.items() if name in names}
            self._stale |= names - self._states.keys()
        for node in run.cluster.nodes:
            if node.name in self._stale or self.plan is None:
                self._states[node.name] = self._state(node)
        self._stale.clear()
        demands = list(self._demands(run, bound))
        began_s = time.process_time()
        made = plan(demands, self._states.values(), run.now, rules=self.rules, uses=self._uses, before=self.plan)
        self.plans_cpu_s.append(time.process_time() - began_s)
        for name, one in made.nodes.items():
            before = self.plan.nodes.get(name) if self.plan is not None else None
            if before is None or before.assignments != one.assignments:
                self._stale.add(name)
        self.plan = made
        return made

    def _state(self, node: Node) -> NodeState:
        said = self._assignments(node)
        return NodeState(
            node.name,
            node.name,
            node.budget_bytes,
            rate_bytes_per_s=node.link_bytes_per_s * self.measured,
            used_bytes=node.used_bytes,
            held={
                item.app: _WARM if item.is_warm else _STAGING
                for item in node.items.values()
                if item.is_kept and (item.is_warm or item.app in node.coming)
            },
            planned={one.artifact: one for one in said},
        )

    def _demands(self, run: Run, bound: tuple[str, Start] | None) -> Iterator[Demand]:
        at = defaultdict[str, dict[str, int]](dict)
        about: dict[str, tuple[int, int]] = {}
        for node in run.cluster.nodes:
            for item in node.items.values():
                if (item.pods or item.waiting) and item.is_kept:
                    at[item.app][node.name] = item.pods + len(item.waiting)
                    about[item.app] = item.size_bytes, len(item.waiting)
        if bound is not None:
            at[bound[1].app][bound[0]] = 1
            about[bound[1].app] = bound[1].size_bytes, 1
        for app, nodes in at.items():
            size_bytes, idle = about[app]
            yield Demand(f"pod {app}", app, size_bytes, "all", Trust.BOUND, nodes, frozenset(nodes), gpus=idle)
        yield from self._declared(run)

    def _declared(self, run: Run) -> Iterator[Demand]:
        places = dict[int, dict[str, int]]()
        for number, one in list(self._said.items()):
            if one.ready_s + _GRACE_S <= run.now or (one.start is not None and one.start < self._seen):
                del self._said[number]
                continue
            until = one.ready_s + _GRACE_S
            if one.gpus not in places:
                places[one.gpus] = _places(run, one.gpus)
            yield Demand(
                f"said {number}",
                one.app,
                one.size_bytes,
                "all",
                Trust.DECLARED,
                places[one.gpus],
                self._feasible,
                ready_by=one.ready_s,
                until=until,
                source=ToldBy.STAGING_SCHEDULE,
                chance=0.85,
                gpus=one.gpus,
            )

    def _carry_out(self, run: Run, made: Plan) -> None:
        for node in run.cluster.nodes:
            if node.name in self._stale or node.coming or made.nodes[node.name].assignments:
                self._stage(run, node, made.nodes[node.name])

    def _stage(self, run: Run, node: Node, said: NodePlan) -> None:
        wanted = [one.artifact for one in said.assignments if one.action is Action.STAGE]
        for app in list(node.coming):
            if app not in wanted and not node.items[app].is_wanted:
                run.cluster.pause(node, app)
                self._stale.add(node.name)
        sizes = self._sizes()
        for app in wanted:
            if app in node.items:
                run.cluster.resume(node, app)
            elif app in sizes and evict(run.cluster, node, sizes[app], self._order(node)):
                run.cluster.add(node, app, sizes[app])
                self._stale.add(node.name)

    def _sizes(self) -> Mapping[str, int]:
        return {said.app: said.size_bytes for said in self._said.values()}

    def _order(self, node: Node) -> Iterable[str]:
        """As the agent does: what was begun and left, what is released, then what is not listed, each by its last use."""
        said = {one.artifact: one.action for one in self._assignments(node)}
        free = [app for app in node.items if said.get(app) in (None, Action.RELEASE)]

        def turn(app: str) -> tuple[bool, bool, float, str]:
            item = node.items[app]
            is_left_over = not item.is_warm and app not in node.coming
            return not is_left_over, said.get(app) is not Action.RELEASE, item.used_at, app

        return sorted(free, key=turn)

    def _listed(self, node: Node) -> Iterable[str]:
        listed = {one.artifact for one in self._assignments(node) if one.action is Action.KEEP}
        return sorted((app for app in node.items if app in listed), key=lambda app: (node.items[app].used_at, app))

    def _assignments(self, node: Node) -> Iterable[Assignment]:
        said = self.plan.nodes.get(node.name) if self.plan is not None else None
        return () if said is None else said.assignments

    def _count_seen(self, run: Run) -> None:
        while self._seen < len(run.starts) and run.starts[self._seen].time_s <= run.now:
            one = run.starts[self._seen]
            self._uses[one.app] = used(
                self._uses.get(one.app),
                at=one.time_s,
                size_bytes=one.size_bytes,
                gpus=one.gpus,
                half_life_s=self.rules.worth.half_life_s,
            )
            self._seen += 1

    def _count(self, run: Run, start: Start) -> None:
        self._count_seen(run)


def _places(run: Run, gpus: int) -> dict[str, int]:
    """Where so many accelerators are free now, and how often."""
    return {node.name: int(min(node.gpus, 1000) // max(1, gpus)) for node in run.cluster.nodes if node.gpus >= max(1, gpus)}
