"""What a node can fetch by when, and so when the latest of it has to begin.

Stages of one node go through its link one after the other: what is wanted now first, then by their deadlines. Backwards from
the deadlines that gives the latest start of each; with some slack it is when the node is told, at the latest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand
from prestage.planner.ledger import Book, Promise
from prestage.planner.links import Link
from prestage.planner.rules import Rules

_ROUNDING_S = 1e-3


@dataclass(slots=True)
class Stage:
    """What a node still has to fetch for one promise."""

    node: str
    artifact: str
    promise: Promise
    start_by: float = math.inf
    """Begun later it misses its deadline, if the link is no better than measured."""

    @property
    def is_urgent(self) -> bool:
        """Wanted now; what is to come has a moment to be told."""
        return self.promise.starts == -math.inf and self.promise.not_before is None


class Timing:
    """Of one plan."""

    def __init__(self, now: float, rules: Rules) -> None:
        self.now, self.rules = now, rules
        self._links: dict[str, Link] = {}
        self._fastest_bytes_per_s = 0.0

    def link(self, book: Book) -> Link:
        """A node that did not tell its rate gets a careful one: it is not to be late by our ignorance."""
        found = self._links.get(book.node.name)
        if found is None:
            rate = book.node.rate_bytes_per_s
            usual = rate if rate is not None and rate > 0 else self.rules.assumed_bytes_per_s
            found = self._links[book.node.name] = Link(usual, book.node.rate_windows)
        return found

    def alone(self, demand: Demand, book: Book) -> float | None:
        """When it had to begin there if there were nothing else; None: now."""
        if demand.ready_by is None or demand.ready_by <= self.now:
            return None
        if book.node.is_warm(demand.artifact):
            return demand.ready_by
        starts = self.link(book).starts(demand.ready_by - self.rules.guard_s, demand.size_bytes)
        return max(self.now, self.eased(demand.ready_by, starts))

    def eased(self, ready_by: float, starts: float) -> float:
        """`starts`, with slack: rates fall, and others want the link too."""
        return ready_by - (ready_by - starts) * self.rules.slack

    def misses(self, demand: Demand, book: Book) -> bool:
        """Whether it would come too late there, behind what was promised for sooner."""
        if demand.ready_by is None or book.node.is_warm(demand.artifact):
            return False
        ahead = sum(
            promise.size_bytes
            for artifact, promise in book.lacking.items()
            if artifact != demand.artifact and (promise.ready_by or 0.0) <= demand.ready_by
        )
        return self.link(book).ends(self.now, ahead + demand.size_bytes) > demand.ready_by

    def is_hopeless(self, demand: Demand, books: Collection[Book]) -> bool:
        """Whether no link, idle and at its best, would bring it in time. `books`: of all nodes of the plan. False: one might."""
        if demand.ready_by is None:
            return False
        if not self._fastest_bytes_per_s:
            self._fastest_bytes_per_s = max((self.link(book).most_bytes_per_s for book in books), default=math.inf)
        return self.now + demand.size_bytes / self._fastest_bytes_per_s > demand.ready_by + _ROUNDING_S

    def stages(self, book: Book) -> list[Stage]:
        """What is not there yet, in the order in which it is fetched, with the latest start of each."""
        found = lacking(book)
        self._backwards(found, self.link(book))
        return found

    def _backwards(self, stages: Sequence[Stage], link: Link) -> None:
        """The latest starts, from the last deadline to the first."""
        begins = math.inf
        for stage in reversed(stages):
            ready_by = stage.promise.ready_by
            due = self.now if ready_by is None else max(self.now, ready_by - self.rules.guard_s)
            begins = link.starts(min(due, begins), stage.promise.size_bytes)
            stage.start_by = begins


def in_turn(stage: Stage) -> tuple[bool, int, float, str]:
    """What is wanted now by its priority, then what is to come by its deadline."""
    promise = stage.promise
    is_later = promise.not_before is not None or promise.starts > -math.inf
    return is_later, 0 if is_later else -promise.priority, promise.ready_by or 0.0, stage.artifact


def lacking(book: Book) -> list[Stage]:
    """What a node still has to fetch, in turn."""
    return sorted((Stage(book.node.name, artifact, promise) for artifact, promise in book.lacking.items()), key=in_turn)


def is_begun(book: Book, artifact: str) -> bool:
    """Whether the node is at it, or was told: that is not undone for a moment's sake."""
    held, before = book.node.held.get(artifact), book.node.planned.get(artifact)
    return (held is not None and held.state is State.STAGING) or (before is not None and before.action is Action.STAGE)


def spread_origin(stages: Iterable[Stage], rate_bytes_per_s: float, now: float) -> dict[tuple[str, str], float]:
    """When each of them is through by what all origins together give: what is wanted now first, then each namespace the same
    share while it has something to fetch, its own by their deadlines. By node and artifact."""
    urgent, later = list[Stage](), list[Stage]()
    for stage in stages:
        (urgent if stage.is_urgent else later).append(stage)
    made, base = dict[tuple[str, str], float](), 0
    for tier in (urgent, later):
        by_namespace = defaultdict[str, list[Stage]](list)
        for stage in sorted(tier, key=in_turn):
            by_namespace[stage.promise.namespace].append(stage)
        totals = {name: sum(stage.promise.size_bytes for stage in own) for name, own in by_namespace.items()}
        for own in by_namespace.values():
            served = 0
            for stage in own:
                served += stage.promise.size_bytes
                through = base + sum(min(total, served) for total in totals.values())
                made[stage.node, stage.artifact] = now + through / rate_bytes_per_s
        base += sum(totals.values())
    return made
