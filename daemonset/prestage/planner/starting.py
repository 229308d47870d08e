"""What of a window that is to come is begun now: what must, what was begun, and what costs nothing.

Early where the link is idle and nothing has to go for it, or what is worth clearly less; late, at its latest safe start, where
it would push out what is worth as much; between these, the sooner the cheaper what has to go.
What all nodes together may take from origins goes to windows in turn between namespaces, each its soonest first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prestage.planner.demands import Trust
from prestage.planner.ledger import Book, Ledger
from prestage.planner.timing import Stage, Timing, is_begun

_AGAIN_S = 15.0
"""What waits for others is looked at again: they end by events, but a lost one must not hold it up."""


_LATER_COPY = 1_000_000
"""A second copy's turn comes after every first one's."""


class Starting:
    """Decides once, for all nodes."""

    def __init__(self, ledger: Ledger, timing: Timing, price: Callable[[Book, str, int], float]) -> None:
        """`price`: what is lost until the horizon if an artifact is there from now on, as a share of its own worth."""
        self._ledger, self._timing, self._price = ledger, timing, price
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
        undecided, stages = list[Stage](), self._timing.stages(book)
        self._pause(book, stages)
        for stage in stages:
            self.start_by[name, stage.artifact] = stage.start_by
            if stage.promise.trust is Trust.DECLARED and not is_begun(book, stage.artifact):
                undecided.append(stage)
            elif stage.is_urgent:
                self._busy.add(name)
        return undecided

    def _pause(self, book: Book, stages: Iterable[Stage]) -> None:
        """A node fetches what was said aloud in the order in which it was told. What is wanted later and was begun makes way for
        what has to begin now, and goes on from where it was."""
        free_at = None
        for stage in stages:
            if stage.promise.trust is not Trust.DECLARED:
                continue
            if not is_begun(book, stage.artifact):
                if self._must(stage):
                    free_at = self._timing.link(book).ends(free_at or self._now, stage.promise.size_bytes)
            elif free_at is not None and stage.promise.not_before is None:
                stage.promise.not_before = free_at

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
        book, promise, now = self._ledger.books[stage.node], stage.promise, self._now
        told_at = self._told_at(stage)
        early_at = self._early_at(book, stage, told_at)
        begins = told_at <= now or (early_at <= now and book.node.name not in self._busy)
        if begins and self._origin_has_rate(book) and self._ledger.hasten(stage.node, stage.artifact):
            self._busy.add(stage.node)
            return
        promise.not_before = next((moment for moment in (early_at, told_at) if moment > now), now + _AGAIN_S)

    def _early_at(self, book: Book, stage: Stage, told_at: float) -> float:
        """When going sooner costs no more than it is worth: at once where nothing has to go, else the sooner the cheaper what has
        to go; it would go at `told_at` anyway."""
        ready_by, rules = stage.promise.ready_by or self._now, self._rules
        cost = self._price(book, stage.artifact, stage.promise.size_bytes) * rules.worth.hysteresis
        sooner_s = rules.horizon_s if cost == 0 else rules.horizon_s * min(1.0, rules.worth.haste / cost)
        return max(told_at - sooner_s, ready_by - rules.horizon_s)

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
