"""The last plan and what it was made from: for statuses, events, the release of gates and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from prestage.api.artifacts import SourceAccess
from prestage.control.demand.collecting import Collected
from prestage.control.demand.records import Line
from prestage.control.demand.resolving import Failure
from prestage.planner.decisions import Decisions
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Plan


@dataclass(frozen=True, slots=True)
class Posted:
    """One plan."""

    collected: Collected = field(default_factory=Collected)
    nodes: tuple[NodeState, ...] = ()
    plan: Plan = field(default_factory=Plan)
    failures: Mapping[Line, Failure] = field(default_factory=dict)
    blocked: Mapping[Line, SourceAccess] = field(default_factory=dict)
    """What may not be mounted anew."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """CachePolicies that cannot be read, and why."""
    withheld: frozenset[str] = frozenset()
    """Artifacts that are not staged because of that."""


class Board:
    """`last` is None before the first plan of this process."""

    def __init__(self) -> None:
        self.last: Posted | None = None
        self.decisions = Decisions()
        """What was decided, over restarts of planners too: written down by decision_log.py."""
        self._readers: list[asyncio.Event] = []

    def post(self, posted: Posted) -> None:
        """Tell all readers."""
        self.last = posted
        for event in self._readers:
            event.set()

    def reader(self) -> asyncio.Event:
        """Set at each plan; whoever waits clears it."""
        made = asyncio.Event()
        self._readers.append(made)
        return made
