"""plan(demand, nodes, now): who holds what, and which demand will be met when.

The surest demand chooses first: bound pods, then those that wait, then the rest; what comes later never takes room from what
came before. Then what is warm and wanted is kept where there is room. The same input gives the same plan in whatever order it
comes, and a plan that was carried out gives itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prestage.api.nodes import Action, ErrorClass, State
from prestage.planner.copies import Copies, copies_of, guard_copies
from prestage.planner.deadlines import late_by_s, ready_at
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.ledger import Book, Ledger
from prestage.planner.nodes import NodeState
from prestage.planner.placement import Placed, place_bound, place_waiting
from prestage.planner.plans import ORIGIN, Assignment, NodePlan, Outcome, Plan, Reason, Verdict
from prestage.planner.retention import keep_copies, releases
from prestage.planner.sources import sources_of

_PASSING = frozenset({ErrorClass.BUSY, ErrorClass.UNAVAILABLE})
_WALLS = (Reason.NAMESPACE_BYTES, Reason.NAMESPACE_NODE_BYTES, Reason.TOO_LARGE, Reason.TOO_MANY, Reason.MOVING, Reason.NODE_FULL)
"""Of several reasons on several nodes the first of these is told."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`peers`: nodes are told which others hold an artifact."""

    peers: bool = True


def plan(
    demand: Iterable[Demand],
    nodes: Iterable[NodeState],
    now: float,
    *,
    walls: Mapping[str, Wall] | None = None,
    rules: Rules | None = None,
) -> Plan:
    """`now` and every moment: seconds since the epoch. `walls`: by namespace. Ids of demands and names of nodes are unique."""
    demands = sorted(demand, key=_order)
    ledger = Ledger(nodes, walls or {})
    states = [book.node for book in ledger.books.values()]
    copies = copies_of(demands, states)
    guard_copies(ledger, copies)
    placed: dict[str, Placed] = {}
    for one in demands:
        if one.trust is Trust.BOUND:
            placed[one.id] = place_bound(ledger, copies, one)
        elif one.trust is not Trust.STANDING:
            placed[one.id] = place_waiting(ledger, copies, one)
    keep_copies(ledger, copies)
    made = {name: _node_plan(book, copies, now, rules or Rules()) for name, book in ledger.books.items()}
    verdicts = {one.id: _verdict(one, placed.get(one.id), ledger, copies, made, now) for one in demands}
    return Plan(made, verdicts)


def _order(demand: Demand) -> tuple[int, int, float, int, str]:
    return demand.trust, -demand.priority, demand.ready_by or 0.0, -demand.gpus, demand.id


def _node_plan(book: Book, copies: Copies, now: float, rules: Rules) -> NodePlan:
    node = book.node
    stages, keeps = list[Assignment](), list[Assignment]()
    for artifact, promise in book.promises.items():
        if promise.action is Action.STAGE:
            sources = sources_of(artifact, node, copies.warm.get(artifact, ())) if rules.peers else (ORIGIN,)
            stages.append(Assignment(artifact, Action.STAGE, promise.priority, promise.ready_by, sources))
        else:
            keeps.append(Assignment(artifact, Action.KEEP))
    stages.sort(key=lambda one: (-one.priority, one.ready_by or 0.0, one.artifact))
    keeps.sort(key=lambda one: one.artifact)
    left = [(one.artifact, 0 if node.is_warm(one.artifact) else book.promises[one.artifact].size_bytes) for one in stages]
    left.sort(key=lambda pair: pair[1] > 0)  # what is there needs no turn
    gone = [Assignment(artifact, Action.RELEASE) for artifact in releases(book, copies)] if stages or keeps else []
    return NodePlan(
        node.name,
        node.uid,
        (*stages, *keeps, *gone),
        ready_at(left, rate_bytes_per_s=node.rate_bytes_per_s, now=now),
    )


def _verdict(
    demand: Demand, placed: Placed | None, ledger: Ledger, copies: Copies, made: Mapping[str, NodePlan], now: float
) -> Verdict:
    if placed is None:
        kept = tuple(name for name in copies.warm.get(demand.artifact, ()) if demand.artifact in ledger.books[name].promises)
        return Verdict(Outcome.ON_TIME, Reason.KEPT, kept)
    refused = placed.refused if demand.trust is Trust.BOUND else {}
    nodes = tuple(placed.nodes)
    if refused and (not nodes or demand.trust is Trust.BOUND):
        reason = _first(refused.values())
        outcome = Outcome.LATE if reason is Reason.MOVING else Outcome.IMPOSSIBLE
        return Verdict(outcome, reason, nodes, refused)
    if not nodes:
        return Verdict(Outcome.IMPOSSIBLE, _first(placed.refused.values()))
    if demand.trust is Trust.WAITING and any(ledger.books[name].node.is_warm(demand.artifact) for name in nodes):
        return Verdict(Outcome.ON_TIME, Reason.WARM, nodes, ready_at=now, late_by_s=0.0)
    return _timed(demand, nodes, ledger, made, now)


def _timed(demand: Demand, nodes: tuple[str, ...], ledger: Ledger, made: Mapping[str, NodePlan], now: float) -> Verdict:
    if all(ledger.books[name].node.is_warm(demand.artifact) for name in nodes):
        return Verdict(Outcome.ON_TIME, Reason.WARM, nodes, ready_at=now, late_by_s=0.0)
    moments = [made[name].ready_at.get(demand.artifact) for name in nodes]
    told = [moment for moment in moments if moment is not None]
    last = None if len(told) < len(moments) else (max(told) if demand.trust is Trust.BOUND else min(told))
    late = late_by_s(last, demand.ready_by, now)
    failed = [
        held for name in nodes if (held := ledger.books[name].node.held.get(demand.artifact)) and held.state is State.FAILED
    ]
    if failed and (demand.trust is Trust.BOUND or len(failed) == len(nodes)):
        worst = next((held for held in failed if held.error_class not in _PASSING), failed[0])
        error = (str(worst.error_class or ErrorClass.BUG), worst.error_code or "")
        if worst.error_class not in _PASSING:
            return Verdict(Outcome.IMPOSSIBLE, Reason.STAGE_FAILED, nodes, error=error)
        return Verdict(Outcome.LATE, Reason.RETRYING, nodes, ready_at=last, late_by_s=late, error=error)
    outcome = Outcome.ON_TIME if late == 0.0 else Outcome.LATE
    return Verdict(outcome, Reason.STAGING, nodes, ready_at=last, late_by_s=late)


def _first(reasons: Iterable[Reason]) -> Reason:
    found = set(reasons)
    return next((one for one in _WALLS if one in found), Reason.NO_NODE)
