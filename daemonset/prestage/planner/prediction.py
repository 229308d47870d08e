"""When everything that is told or meant to be staged will be warm, if links are as they were measured.

A node does not tell how far a stage is. What the last plan predicted of one that runs stands, put off by what goes before it now.
"""

from __future__ import annotations

from collections.abc import Mapping

from prestage.api.nodes import Action, State
from prestage.planner.copies import Copies
from prestage.planner.ledger import Book, Ledger
from prestage.planner.plans import Plan
from prestage.planner.timing import Stage, Timing, in_turn, lacking, spread_origin


class Prediction:
    """Of one plan, once all is promised."""

    def __init__(self, ledger: Ledger, timing: Timing, copies: Copies, before: Plan | None = None) -> None:
        self._before = before
        self._timing, self._copies = timing, copies
        self._by_node: dict[str, dict[str, float | None]] = {}
        self.by_origin: dict[tuple[str, str], float] = {}
        """What the limit of all origins alone would allow; by node and artifact. Empty: no limit."""
        stages = {name: lacking(book) for name, book in ledger.books.items() if book.promises}
        if timing.rules.origin_bytes_per_s is not None:
            self._ask_origin([one for own in stages.values() for one in own], timing.rules.origin_bytes_per_s)
        for name, book in ledger.books.items():
            self._by_node[name] = self._through(book, stages.get(name, []))

    def ready_at(self, node: str) -> Mapping[str, float | None]:
        """By artifact; None: nobody can tell."""
        return self._by_node[node]

    def _through(self, book: Book, stages: list[Stage]) -> dict[str, float | None]:
        now, node = self._timing.now, book.node
        made: dict[str, float | None] = {
            artifact: now
            for artifact, promise in book.promises.items()
            if promise.action is Action.STAGE and node.is_warm(artifact)
        }
        is_known = node.rate_bytes_per_s is not None and node.rate_bytes_per_s > 0
        link, at, counted = self._timing.link(book), now, 0.0
        for stage in stages:
            size_bytes = float(stage.promise.size_bytes)
            if (predicted := self._predicted(book, stage.artifact)) is not None:
                size_bytes = min(size_bytes, max(0.0, link.carries(now, predicted) - counted))
                counted += size_bytes
            at = link.ends(max(at, stage.promise.not_before or at), size_bytes)
            at = max(at, self.by_origin.get((stage.node, stage.artifact), at))
            made[stage.artifact] = at if is_known or at == now else None
        return made

    def _predicted(self, book: Book, artifact: str) -> float | None:
        """By the last plan, of a stage that runs and is not late by that."""
        held = book.node.held.get(artifact)
        said = self._before.nodes.get(book.node.name) if self._before is not None else None
        if held is None or held.state is not State.STAGING or said is None or said.uid != book.node.uid:
            return None
        moment = said.ready_at.get(artifact)
        return moment if moment is not None and moment > self._timing.now else None

    def _ask_origin(self, stages: list[Stage], rate: float) -> None:
        """Those that a peer holds ask no origin."""
        if self._timing.rules.peers:
            stages = [one for one in stages if not any(name != one.node for name in self._copies.warm.get(one.artifact, ()))]
        told = [one for one in stages if one.promise.not_before is None]
        self.by_origin = spread_origin(told, rate, self._timing.now)
        at = max(self.by_origin.values(), default=self._timing.now)
        for stage in sorted((one for one in stages if one.promise.not_before is not None), key=in_turn):
            at = max(at, stage.promise.not_before or at) + stage.promise.size_bytes / rate
            self.by_origin[stage.node, stage.artifact] = at
