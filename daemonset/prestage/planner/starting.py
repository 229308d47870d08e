"""What of a window that is to come is begun now: what must, what was begun, and what costs nothing.

Early where the link is idle and nothing has to go for it; late, at its latest safe start, where it would push something out.
What all nodes together may take from origins goes to windows in turn between namespaces, each its soonest first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from prestage.planner.demands import Trust
from prestage.planner.ledger import Book, Ledger, Promise
from prestage.planner.timing import Stage, Timing, is_begun

_AGAIN_S = 15.0
"""What waits for others is looked at again: they end by events, but a lost one must not hold it up."""


_LATER_COPY = 1_000_000
"""A second copy's turn comes after every first one's."""


class Starting:
    """Decides once, for all nodes."""

    def __init__(self, ledger: Ledger, timing: Timing) -> None:
        self._ledger, self._timing = ledger, timing
        self._now, self._rules = timing.now, timing.rules
        self.start_by: dict[tuple[str, str], float] = {}
        """By node and artifact, of all that is to be fetched."""
        self._busy: set[str] = set()

    def decide(self) -> None:
        """Sets `not_before` of what waits, and takes the room of what does not."""
        waiting = list[Stage]()
        for book in self._ledger.books.values():
            if book.promises:
                waiting += self._look(book)
        turns = _turns(waiting)
        self._bound_by_origin(waiting, turns)
        for stage in sorted(waiting, key=lambda one: (not self._must(one), *turns[one.node, one.artifact])):
            self._begin_or_wait(stage)

    def _look(self, book: Book) -> list[Stage]:
        """What is there or begun goes on; the rest of the windows is returned."""
        name = book.node.name
        for artifact, promise in book.promises.items():
            goes_on = book.node.is_warm(artifact) or is_begun(book, artifact)
            if goes_on and not self._ledger.hasten(name, artifact):
                promise.not_before = max(self._now + _AGAIN_S, promise.starts)
        undecided = list[Stage]()
        for stage in self._timing.stages(book):
            self.start_by[name, stage.artifact] = stage.start_by
            if stage.promise.trust is Trust.DECLARED and not is_begun(book, stage.artifact):
                undecided.append(stage)
            elif stage.is_urgent:
                self._busy.add(name)
        return undecided

    def _bound_by_origin(self, waiting: Iterable[Stage], turns: Mapping[tuple[str, str], tuple[int, float, int]]) -> None:
        """What all take together has to fit too: the latest starts, backwards from the last deadline; of one moment, in turns."""
        cap = self._rules.origin_bytes_per_s
        if cap is None:
            return
        begins = math.inf
        for stage in sorted(waiting, key=lambda one: (one.promise.ready_by or 0.0, turns[one.node, one.artifact]), reverse=True):
            due = (stage.promise.ready_by or self._now) - self._rules.guard_s
            begins = min(due, begins) - stage.promise.size_bytes / cap
            stage.start_by = min(stage.start_by, begins)
            self.start_by[stage.node, stage.artifact] = stage.start_by

    def _told_at(self, stage: Stage) -> float:
        ready_by = stage.promise.ready_by or self._now
        return self._timing.eased(ready_by, stage.start_by)

    def _must(self, stage: Stage) -> bool:
        return self._told_at(stage) <= self._now

    def _begin_or_wait(self, stage: Stage) -> None:
        book, promise = self._ledger.books[stage.node], stage.promise
        begins = (self._must(stage) or self._costs_nothing(book, promise)) and self._origin_has_rate(book)
        if begins and self._ledger.hasten(stage.node, stage.artifact):
            self._busy.add(stage.node)
            return
        told_at = self._told_at(stage)
        promise.not_before = told_at if told_at > self._now else self._now + _AGAIN_S

    def _costs_nothing(self, book: Book, promise: Promise) -> bool:
        node = book.node
        if node.name in self._busy or node.used_bytes is None or node.budget_bytes is None:
            return False
        if (promise.ready_by or 0.0) > self._now + self._rules.horizon_s:
            return False
        return node.used_bytes + promise.size_bytes <= node.budget_bytes

    def _origin_has_rate(self, book: Book) -> bool:
        """Whether one more node may take from origins. One may always."""
        cap = self._rules.origin_bytes_per_s
        if cap is None or not self._busy or book.node.name in self._busy:
            return True
        books = self._ledger.books
        return sum(self._timing.link(books[name]).rate_at(self._now) for name in self._busy) < cap


def _turns(stages: Iterable[Stage]) -> dict[tuple[str, str], tuple[int, float, int]]:
    """Namespaces in turn, each its soonest first, first copies before second ones. By node and artifact."""
    turns, copies = defaultdict[str, int](int), defaultdict[str, int](int)
    made: dict[tuple[str, str], tuple[int, float, int]] = {}
    for number, stage in enumerate(sorted(stages, key=lambda one: (one.promise.ready_by or 0.0, one.artifact, one.node))):
        turns[stage.promise.namespace] += 1
        copies[stage.artifact] += 1
        turn = turns[stage.promise.namespace] if copies[stage.artifact] == 1 else turns[stage.promise.namespace] + _LATER_COPY
        made[stage.node, stage.artifact] = (turn, stage.promise.ready_by or 0.0, number)
    return made
