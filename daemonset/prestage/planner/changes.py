"""From one plan to the next: what was decided anew, and what became of what was decided. Kept by whoever leads.

What a node was told before is in its NodeState (`planned`): a planner that begins anew tells nothing twice and misses nothing of
what it tells. What a node holds is compared with the last look; the first look at a node is where its story begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prestage.api.nodes import Action, State
from prestage.planner.decisions import Because, Decided, Decision, grouped
from prestage.planner.demands import Demand, Trust
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Assignment, NodePlan, Outcome, Plan, Reason, Verdict

Told = Mapping[str, Assignment]
_SETTLED = (State.WARM, State.RELEASING)


@dataclass(slots=True)
class _Seen:
    """Of one node, at the last look."""

    uid: str
    told: Told
    later: Mapping[str, float | None]
    node: NodeState | None
    """As it last reported; None: it did not yet."""


@dataclass(slots=True)
class Changes:
    """Call `look` after each plan. `warm` and `awaited`: by node, the artifacts that were warm, or were to be, by what was
    written down before."""

    warm: dict[str, set[str]] = field(default_factory=dict)
    awaited: dict[str, set[str]] = field(default_factory=dict)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _late: dict[str, str] = field(default_factory=dict)

    def look(
        self, demands: Sequence[Demand], nodes: Sequence[NodeState], plan: Plan, now: float, teller: Callable[[str], str]
    ) -> list[Decision]:
        """`teller`: a demand's id to the object that said it."""
        look = _Look(demands, plan, now, teller)
        found = list[Decision]()
        for node in nodes:
            made = plan.nodes.get(node.name)
            if made is not None:
                found += self._of_node(look, node, made)
        for name in self._seen.keys() - {node.name for node in nodes}:
            found.append(look.made(Decided.GONE, "", name, Because.NODE_GONE))
            del self._seen[name]
        return [*grouped(found), *self._lateness(look)]

    def _of_node(self, look: _Look, node: NodeState, made: NodePlan) -> Iterator[Decision]:
        told = {one.artifact: one for one in made.assignments}
        later = {one.artifact: one.ready_by for one in made.later}
        before = self._seen.get(node.name)
        if before is None or before.uid != node.uid:
            before = _Seen(node.uid, node.planned, {}, None)
        if told != before.told:
            yield from look.told(node.name, before.told, told)
        if later != before.later:
            yield from look.later(node.name, before, made.later, told)
        reported = node if node.budget_bytes is not None else before.node
        if reported is not None and before.node is None:
            yield from self._unseen(look, reported)
        elif reported is not None and before.node is not None and reported is not before.node:
            yield from look.held(before.node, reported, before.told)
        self._seen[node.name] = _Seen(node.uid, told, later, reported)

    def _unseen(self, look: _Look, node: NodeState) -> Iterator[Decision]:
        """What came and what went while nobody looked."""
        for artifact in sorted(self.warm.pop(node.name, ())):
            if artifact not in node.held and len(node.held) < node.entries_max:
                yield look.made(Decided.GONE, artifact, node.name, Because.UNSEEN)
        for artifact in sorted(self.awaited.pop(node.name, ())):
            if node.is_warm(artifact):
                yield look.made(Decided.WARM, artifact, node.name, Because.UNSEEN)

    def _lateness(self, look: _Look) -> Iterator[Decision]:
        fresh: dict[str, str] = {}
        for demand in look.demands:
            verdict = look.plan.verdicts.get(demand.id)
            if verdict is None or demand.trust is Trust.STANDING or verdict.outcome is Outcome.ON_TIME:
                continue
            if verdict.reason is Reason.PLANNED:  # nobody can tell yet
                continue
            fresh[demand.id] = f"{verdict.outcome} {verdict.reason} {int(verdict.late_by_s or 0).bit_length()}"
            if demand.trust is not Trust.DECLARED:  # it is late by nature: how late is told once it is there
                fresh[demand.id] = f"{verdict.outcome} {verdict.reason}"
            if self._late.get(demand.id) != fresh[demand.id]:
                yield look.late(demand, verdict)
        self._late = fresh


class _Look:
    """One plan, and what it was made of."""

    def __init__(self, demands: Sequence[Demand], plan: Plan, now: float, teller: Callable[[str], str]) -> None:
        self.demands, self.plan, self._now, self._teller = demands, plan, now, teller
        self._wanting: dict[str, list[Demand]] | None = None

    def made(self, what: Decided, artifact: str, node: str, because: str, demand: Demand | None = None) -> Decision:
        """For one node."""
        whose = "" if demand is None else demand.namespace
        by = "" if demand is None else self._teller(demand.id)
        ready_by = None if demand is None else demand.ready_by
        return Decision(self._now, what, artifact, (node,), because=because, namespace=whose, by=by, ready_by=ready_by)

    def told(self, node: str, before: Told, after: Told) -> Iterator[Decision]:
        """Where it is told something else."""
        for artifact, one in after.items():
            was = before.get(artifact)
            if one.action is Action.RELEASE or (was is not None and was.action is one.action):
                continue
            demand = self._for(artifact, node)
            what = Decided.STAGE if one.action is Action.STAGE else Decided.KEEP
            yield self.made(what, artifact, node, Because.USED if demand is None else str(demand.source), demand)
        for artifact, was in before.items():
            now = after.get(artifact)
            if was.action is Action.RELEASE or (now is not None and now.action is not Action.RELEASE):
                continue
            yield self.dropped(artifact, node)

    def later(self, name: str, before: _Seen, later: Sequence[Assignment], told: Told) -> Iterator[Decision]:
        """What it will be told, where that or its deadline is new; and what it will not be told after all."""
        for one in later:
            if one.not_before is None or (one.artifact in before.later and before.later[one.artifact] == one.ready_by):
                continue
            demand = self._for(one.artifact, name)
            made = self.made(Decided.PLANNED, one.artifact, name, "" if demand is None else str(demand.source), demand)
            yield replace(made, begins=one.not_before, ready_by=one.ready_by)
        ahead = {one.artifact for one in later}
        for artifact in sorted(before.later.keys() - ahead - told.keys()):
            yield self.dropped(artifact, name)

    def dropped(self, artifact: str, name: str) -> Decision:
        """Nothing is said of it there any more."""
        wanted = self._wanted(artifact)
        because = Because.NO_ROOM if wanted else Because.NOT_WANTED
        return self.made(Decided.RELEASE, artifact, name, because, wanted[0] if wanted else None)

    def held(self, before: NodeState, after: NodeState, told: Told) -> Iterator[Decision]:
        """What it reports otherwise than before. `told`: until now."""
        for artifact, held in after.held.items():
            was = before.held.get(artifact)
            if held.state is State.WARM and (was is None or was.state not in _SETTLED):
                yield self.made(Decided.WARM, artifact, after.name, "", self._for(artifact, after.name))
            elif held.state is State.FAILED and (was is None or was != held):
                because = "/".join(filter(None, (str(held.error_class or ""), held.error_code)))
                yield self.made(Decided.FAILED, artifact, after.name, because, self._for(artifact, after.name))
        is_cut = len(after.held) >= after.entries_max  # what is not named may be there nevertheless
        for artifact, was in before.held.items():
            now = after.held.get(artifact)
            if was.state in _SETTLED and (not is_cut if now is None else now.state not in _SETTLED):
                yield self.made(Decided.GONE, artifact, after.name, _why_gone(artifact, before, after, told))

    def late(self, demand: Demand, verdict: Verdict) -> Decision:
        """It will be."""
        because = "/".join((str(verdict.reason), *filter(None, verdict.error or ())))
        by, nodes = self._teller(demand.id), verdict.nodes or tuple(verdict.refused)
        one = Decision(self._now, Decided.LATE, demand.artifact, nodes, 0, because, demand.namespace, by)
        [made] = grouped([replace(one, begins=verdict.start_by, ready_by=demand.ready_by, late_s=verdict.late_by_s)])
        return made

    def _wanted(self, artifact: str) -> list[Demand]:
        if self._wanting is None:
            self._wanting = {}
            for demand in sorted(self.demands, key=lambda one: (one.trust, one.ready_by or 0.0, one.id)):
                self._wanting.setdefault(demand.artifact, []).append(demand)
        return self._wanting.get(artifact, [])

    def _for(self, artifact: str, node: str) -> Demand | None:
        """Who wants it there: the surest of those that were given the node, else of those that may run there."""
        wanted = self._wanted(artifact)
        for demand in wanted:
            verdict = self.plan.verdicts.get(demand.id)
            if node in demand.at or (verdict is not None and node in verdict.nodes):
                return demand
        return next((demand for demand in wanted if node in demand.feasible), None)


def _why_gone(artifact: str, before: NodeState, after: NodeState, told: Told) -> Because:
    was = told.get(artifact)
    if was is not None and was.action is not Action.RELEASE:
        return Because.LOST
    coming = any(one.action is Action.STAGE and name != artifact for name, one in told.items() if not after.is_warm(name))
    came = any(held.state is State.STAGING or not before.is_warm(name) for name, held in after.held.items())
    return Because.ROOM if coming or came else Because.UNPLANNED
