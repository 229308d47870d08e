"""What is rehearsed, and what came of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prestage.api.nodes import EntryType
from prestage.planner.apart import beside, together
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.likeness import Parts
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Outcome, Plan, Verdict
from prestage.planner.rules import Rules
from prestage.planner.timeline import Line, played


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """As the planner takes it, with the words for it."""

    demands: tuple[Demand, ...]
    nodes: tuple[NodeState, ...]
    now: float
    rules: Rules
    walls: Mapping[str, Wall] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of what nodes hold and nobody wants."""
    parts: Parts = field(default_factory=Parts)
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call an artifact; itself where it is not here."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Who said a demand, by its id."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, and what is wrong with what was."""
    images: tuple[NodeState, ...] = ()
    """The nodes that stage images, as that room of theirs is."""

    def name(self, artifact: str) -> str:
        """For people."""
        return self.names.get(artifact, artifact)

    def play(self, ahead_s: float, *, goes_on: Callable[[], bool] = lambda: True) -> Played:
        """The plan of now, and what follows of it in so many seconds; less where patience ends before (`goes_on`)."""
        until, cut_at = self.now + ahead_s, math.inf

        def is_patient(moment: float) -> bool:
            nonlocal cut_at
            if goes_on():
                return True
            cut_at = min(cut_at, moment)
            return False

        def play(demands: Sequence[Demand], nodes: Sequence[NodeState], rules: Rules) -> tuple[Plan, list[Line]]:
            return played(
                demands,
                nodes,
                self.now,
                walls=self.walls,
                rules=rules,
                until=until,
                sizes=self.sizes,
                parts=self.parts,
                goes_on=is_patient,
            )

        pulled = [one for one in self.demands if one.kind is EntryType.IMAGE]
        models = [one for one in self.demands if one.kind is not EntryType.IMAGE]
        plan, lines = play(models, self.nodes, self.rules)
        if pulled or self.images:
            placed = beside(pulled, models, plan, frozenset(one.name for one in self.images))
            apart, more = play(placed, self.images, replace(self.rules, peers=False, origin_bytes_per_s=None))
            plan, lines = together(plan, apart), sorted([*lines, *more], key=lambda line: (line.at, line.node))
        return Played(self, plan, lines, min(until, cut_at), is_whole=cut_at == math.inf)

    def kinds(self) -> Mapping[str, EntryType]:
        """Of what is wanted, by artifact."""
        return {one.artifact: one.kind for one in self.demands}


@dataclass(frozen=True, slots=True)
class Played:
    """`until`: how far."""

    rehearsal: Rehearsal
    plan: Plan
    lines: Sequence[Line]
    until: float
    is_whole: bool = True
    """It was played as far as it was asked to."""

    def judged(self) -> Iterator[tuple[Demand, Verdict]]:
        """What is wanted, with what becomes of it. What is only kept while there is room is left out: nobody waits for it; and
        so are images of pods whose nodes stage none."""
        for one in self.rehearsal.demands:
            if one.trust is not Trust.STANDING and (verdict := self.plan.verdicts.get(one.id)) is not None:
                yield one, verdict

    @property
    def is_good(self) -> bool:
        """Nothing is late, and nothing impossible."""
        return all(verdict.outcome is Outcome.ON_TIME for _, verdict in self.judged())
