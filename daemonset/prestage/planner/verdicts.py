"""Whether each demand will be met in time; if not: by how much, why, and what would fix it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prestage.api.nodes import ErrorClass, State
from prestage.planner.copies import Copies
from prestage.planner.demands import Demand, Trust
from prestage.planner.ledger import Ledger
from prestage.planner.placement import Placed
from prestage.planner.plans import Fix, Outcome, Reason, Remedy, Verdict
from prestage.planner.prediction import Prediction
from prestage.planner.timing import Timing

_PASSING = frozenset({ErrorClass.BUSY, ErrorClass.UNAVAILABLE})
_QUOTAS = (Reason.NAMESPACE_BYTES, Reason.NAMESPACE_NODE_BYTES, Reason.NAMESPACE_PINNED)
_WALLS = (*_QUOTAS, Reason.TOO_LARGE, Reason.TOO_MANY, Reason.MOVING, Reason.NODE_FULL)
"""Of several reasons on several nodes the first of these is told."""


class Verdicts:
    """Of one plan."""

    def __init__(
        self,
        ledger: Ledger,
        copies: Copies,
        timing: Timing,
        prediction: Prediction,
        start_by: Mapping[tuple[str, str], float],
    ) -> None:
        self._ledger, self._copies, self._timing = ledger, copies, timing
        self._prediction, self._start_by = prediction, start_by
        self._now = timing.now

    def too_many(self) -> Verdict:
        """Of what was not planned at all."""
        return Verdict(Outcome.IMPOSSIBLE, Reason.TOO_MANY)

    def of(self, demand: Demand, placed: Placed | None) -> Verdict:
        """`placed` None: nothing was to be staged for it."""
        if demand.until is not None and demand.until <= self._now:
            return Verdict(Outcome.ON_TIME, Reason.OVER)
        if placed is None:
            holders = self._copies.warm.get(demand.artifact, ())
            kept = tuple(name for name in holders if demand.artifact in self._ledger.books[name].promises)
            return Verdict(Outcome.ON_TIME, Reason.KEPT, kept)
        nodes = tuple(placed.nodes)
        if demand.trust is Trust.BOUND and placed.refused:
            return self._refused(demand, nodes, placed)
        if not nodes and demand.trust is Trust.DECLARED and placed.missing == 0:
            return Verdict(Outcome.ON_TIME, Reason.KEPT)
        if not nodes:
            reason = _first(placed.refused.values())
            return Verdict(Outcome.IMPOSSIBLE, reason, missing=placed.missing, fix=self._room_fix(demand, reason, placed.refused))
        is_any = demand.trust in (Trust.WAITING, Trust.FOLLOW_ON)
        warm = [self._is_warm(demand, name) for name in nodes]
        if any(warm) if is_any else all(warm) and not placed.missing:
            return Verdict(Outcome.ON_TIME, Reason.WARM, nodes, ready_at=self._now, late_by_s=0.0)
        return self._timed(demand, nodes, placed)

    def _is_warm(self, demand: Demand, name: str) -> bool:
        return self._ledger.books[name].node.is_warm(demand.artifact)

    def _refused(self, demand: Demand, nodes: tuple[str, ...], placed: Placed) -> Verdict:
        reason = _first(placed.refused.values())
        outcome = Outcome.LATE if reason is Reason.MOVING else Outcome.IMPOSSIBLE
        return Verdict(outcome, reason, nodes, placed.refused, fix=self._room_fix(demand, reason, placed.refused))

    def _timed(self, demand: Demand, nodes: tuple[str, ...], placed: Placed) -> Verdict:
        is_any = demand.trust in (Trust.WAITING, Trust.FOLLOW_ON)
        moments = [self._prediction.ready_at(name).get(demand.artifact) for name in nodes]
        told = [moment for moment in moments if moment is not None]
        last = None if len(told) < len(moments) else (min(told) if is_any else max(told))
        late = self._late_s(demand, last)
        start = self._start(demand, nodes)
        if (failed := self._failed(demand, nodes, is_any=is_any)) is not None:
            outcome, reason, error = failed
            fix = Fix(Remedy.SOURCE) if reason is Reason.STAGE_FAILED else None
            when = (last, late) if reason is Reason.RETRYING else (None, None)
            return Verdict(outcome, reason, nodes, ready_at=when[0], late_by_s=when[1], error=error, start_by=start, fix=fix)
        if demand.trust is not Trust.DECLARED:
            outcome = Outcome.ON_TIME if late == 0.0 else Outcome.LATE
            return Verdict(outcome, Reason.STAGING, nodes, ready_at=last, late_by_s=late, start_by=start)
        if placed.missing:
            fix = self._room_fix(demand, _first(placed.refused.values()), placed.refused, missing=placed.missing)
            few = Reason.TOO_FEW_NODES
            return Verdict(Outcome.LATE, few, nodes, placed.refused, last, late, missing=placed.missing, start_by=start, fix=fix)
        return self._window(demand, nodes, last, late, start)

    def _late_s(self, demand: Demand, ready: float | None) -> float | None:
        if ready is None:
            return None
        return max(0.0, ready - (self._now if demand.ready_by is None else demand.ready_by))

    def _window(
        self, demand: Demand, nodes: tuple[str, ...], last: float | None, late: float | None, start: float | None
    ) -> Verdict:
        begun = any(
            (promise := self._ledger.books[name].promises.get(demand.artifact)) is not None and promise.not_before is None
            for name in nodes
        )
        is_future = demand.ready_by is not None and demand.ready_by > self._now
        if late == 0.0 or (late is None and is_future):  # nobody can tell: it was not said that it is late
            reason = Reason.STAGING if begun else Reason.PLANNED
            outcome = Outcome.ON_TIME if late == 0.0 else Outcome.LATE
            return Verdict(outcome, reason, nodes, ready_at=last, late_by_s=late, start_by=start)
        reason, fix = self._why(demand, nodes, late)
        return Verdict(Outcome.LATE, reason, nodes, ready_at=last, late_by_s=late, start_by=start, fix=fix)

    def _why(self, demand: Demand, nodes: tuple[str, ...], late: float | None) -> tuple[Reason, Fix | None]:
        if late is None:
            return Reason.STAGING, None
        moments = {name: self._prediction.ready_at(name).get(demand.artifact) or 0.0 for name in nodes}
        node = max(sorted(nodes), key=lambda name: moments[name])
        ready_by = self._now if demand.ready_by is None else demand.ready_by
        link = self._timing.link(self._ledger.books[node])
        left_s = ready_by - self._now
        if left_s <= 0:
            return Reason.TOO_SOON, Fix(Remedy.NOTICE, late)
        alone = link.ends(self._now, demand.size_bytes)
        if ready_by < alone <= moments[node]:  # else part of it is there already
            return Reason.TOO_SOON, Fix(Remedy.RATE, demand.size_bytes / left_s, node)
        by_origin = self._prediction.by_origin.get((node, demand.artifact), 0.0)
        if by_origin > ready_by:
            cap = self._timing.rules.origin_bytes_per_s or 0.0
            return Reason.ORIGIN_BUSY, Fix(Remedy.ORIGIN_RATE, cap * (by_origin - self._now) / left_s)
        rate = link.rate_at(self._now) * (moments[node] - self._now) / left_s
        return Reason.LINK_BUSY, Fix(Remedy.RATE, rate, node)

    def _start(self, demand: Demand, nodes: tuple[str, ...]) -> float | None:
        found = [moment for name in nodes if (moment := self._start_by.get((name, demand.artifact))) is not None]
        return min(found, default=None)

    def _failed(self, demand: Demand, nodes: tuple[str, ...], *, is_any: bool) -> tuple[Outcome, Reason, tuple[str, str]] | None:
        failed = [
            held
            for name in nodes
            if (held := self._ledger.books[name].node.held.get(demand.artifact)) and held.state is State.FAILED
        ]
        if not failed or (is_any and len(failed) < len(nodes)):
            return None
        worst = next((held for held in failed if held.error_class not in _PASSING), failed[0])
        error = (str(worst.error_class or ErrorClass.BUG), worst.error_code or "")
        if worst.error_class not in _PASSING:
            return Outcome.IMPOSSIBLE, Reason.STAGE_FAILED, error
        return Outcome.LATE, Reason.RETRYING, error

    def _room_fix(self, demand: Demand, reason: Reason, refused: Mapping[str, Reason], *, missing: int = 1) -> Fix | None:
        if reason is Reason.NO_NODE:
            return Fix(Remedy.NODES, float(max(1, missing)))
        if reason in _QUOTAS:
            return Fix(Remedy.QUOTA, float(demand.size_bytes * max(1, missing)))
        if reason not in (Reason.TOO_LARGE, Reason.NODE_FULL):
            return None
        spans = {name: self._ledger.span_of(demand, demand.ready_by) for name in refused if name in self._ledger.books}
        books = self._ledger.books
        lacks = {name: books[name].lacks_bytes(demand.artifact, demand.size_bytes, span) for name, span in spans.items()}
        if not lacks:
            return None
        node = min(sorted(lacks), key=lambda name: lacks[name])
        return Fix(Remedy.ROOM, max(lacks[node], 1.0), node)


def _first(reasons: Iterable[Reason]) -> Reason:
    found = set(reasons)
    return next((one for one in _WALLS if one in found), Reason.NO_NODE)
