"""plan(demand, nodes, now): who holds what, what begins when, and which demand will be met when.

    bound pods ─▶ waiting ones ─▶ windows, soonest first ─▶ what of them begins now ─▶ follow-on ─▶ what is kept

What comes later never takes room from what came before. The same input gives the same plan in whatever order it comes, and a
plan that was carried out gives itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prestage.api.nodes import Action
from prestage.planner.copies import Copies, copies_of, guard_copies
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.ledger import Book, Ledger
from prestage.planner.likeness import Parts
from prestage.planner.nodes import NodeState
from prestage.planner.placement import Placed, place_bound, place_declared, place_waiting
from prestage.planner.plans import ORIGIN, Assignment, NodePlan, Plan
from prestage.planner.prediction import Prediction
from prestage.planner.retention import keep_copies, price, releases
from prestage.planner.rules import Rules
from prestage.planner.sources import sources_of
from prestage.planner.starting import Starting
from prestage.planner.timing import Timing
from prestage.planner.values import Use, Values
from prestage.planner.verdicts import Verdicts

__all__ = ["Rules", "plan"]


def plan(
    demand: Iterable[Demand],
    nodes: Iterable[NodeState],
    now: float,
    *,
    walls: Mapping[str, Wall] | None = None,
    rules: Rules | None = None,
    uses: Mapping[str, Use] | None = None,
    parts: Parts | None = None,
    before: Plan | None = None,
) -> Plan:
    """`now` and every moment: seconds since the epoch. `walls`: by namespace. Ids of demands and names of nodes are unique.
    `uses`: how often each artifact was started. `parts`: what artifacts share.
    `before`: the last plan; what no node was told yet stays where it was meant to go, and what it predicted
    of a stage that runs stands."""
    rules = rules or Rules()
    known = sorted(demand, key=_order)
    demands, too_many = _within(known, now, rules)
    ledger, timing = Ledger(nodes, walls or {}, now, parts), Timing(now, rules)
    copies = copies_of((one for one in demands if _is_near(one, now, rules)), [book.node for book in ledger.books.values()])
    guard_copies(ledger, copies)
    values = Values(copies, uses or {}, timing)
    placed = _place(demands, ledger, copies, timing, before)

    def priced(book: Book, artifact: str, size_bytes: int) -> float:
        return price(book, artifact, size_bytes, copies, values)

    starting = Starting(ledger, timing, priced)
    starting.decide()
    for one in demands:
        if one.trust is Trust.FOLLOW_ON:
            welcome = {name for name in one.at if name in ledger.books and _is_welcome(ledger.books[name], one, priced, rules)}
            placed[one.id] = place_waiting(ledger, copies, one, welcome)
    keep_copies(ledger, copies, values, rules.worth)
    prediction = Prediction(ledger, timing, copies, before)
    made = {name: _node_plan(book, copies, prediction, rules) for name, book in ledger.books.items()}
    verdicts = Verdicts(ledger, copies, timing, prediction, starting.start_by)
    said = {one.id: verdicts.of(one, placed.get(one.id)) for one in known if one.id not in too_many}
    said |= {name: verdicts.too_many() for name in too_many}
    return Plan(made, said, _again_at(demands, made, now, rules))


def _is_welcome(book: Book, demand: Demand, priced: Callable[[Book, str, int], float], rules: Rules) -> bool:
    """It has to do with it already, or loses clearly less by it than it gains."""
    if demand.artifact in book.node.held or demand.artifact in book.promises:
        return True
    return priced(book, demand.artifact, demand.size_bytes) * rules.worth.hysteresis <= 1


def _place(demands: Iterable[Demand], ledger: Ledger, copies: Copies, timing: Timing, before: Plan | None) -> dict[str, Placed]:
    meant = defaultdict[str, list[str]](list)
    for name, planned in (before.nodes if before is not None else {}).items():
        for later in planned.later:
            meant[later.artifact].append(name)
    placed: dict[str, Placed] = {}
    for one in demands:
        if one.trust is Trust.BOUND:
            placed[one.id] = place_bound(ledger, copies, one)
        elif one.trust is Trust.WAITING:
            placed[one.id] = place_waiting(ledger, copies, one)
        elif one.trust is Trust.DECLARED:
            placed[one.id] = place_declared(ledger, copies, one, timing, meant.get(one.artifact, ()))
    return placed


def _within(demands: Iterable[Demand], now: float, rules: Rules) -> tuple[list[Demand], set[str]]:
    """Those whose time is not over, in their order, and the ids of what is too much of one namespace."""
    found, too_many = list[Demand](), set[str]()
    counts = defaultdict[str, int](int)
    for one in demands:
        if one.until is not None and one.until <= now:
            continue
        if one.trust is not Trust.BOUND:
            counts[one.namespace] += 1
            if counts[one.namespace] > rules.per_namespace_max:
                too_many.add(one.id)
                continue
        found.append(one)
    return found, too_many


def _again_at(demands: Iterable[Demand], made: Mapping[str, NodePlan], now: float, rules: Rules) -> float | None:
    """When something is to begin, a window begins or ends, or one comes near."""
    starts = [one.not_before for each in made.values() for one in each.later if one.not_before is not None]
    edges = [edge for one in demands for edge in (one.until, one.ready_by) if edge is not None]
    near = [one.ready_by - rules.horizon_s for one in demands if one.ready_by is not None]
    return min((moment for moment in (*starts, *edges, *near) if moment > now), default=None)


def _is_near(demand: Demand, now: float, rules: Rules) -> bool:
    return demand.ready_by is None or demand.ready_by <= now + rules.horizon_s


def _order(demand: Demand) -> tuple[int, int, float, int, str]:
    return demand.trust, -demand.priority, demand.ready_by or 0.0, -demand.gpus, demand.id


def _node_plan(book: Book, copies: Copies, prediction: Prediction, rules: Rules) -> NodePlan:
    node = book.node
    stages, keeps, later = list[Assignment](), list[Assignment](), list[Assignment]()
    for artifact, promise in book.promises.items():
        if promise.action is Action.KEEP or promise.is_kept:
            keeps.append(Assignment(artifact, Action.KEEP))
            continue
        sources = sources_of(artifact, node, copies.warm.get(artifact, ())) if rules.peers else (ORIGIN,)
        made = Assignment(artifact, Action.STAGE, promise.priority, promise.ready_by, sources, promise.not_before)
        (stages if promise.not_before is None else later).append(made)
    stages.sort(key=lambda one: (-one.priority, one.ready_by or 0.0, one.artifact))
    keeps.sort(key=lambda one: one.artifact)
    later.sort(key=lambda one: (one.not_before or 0.0, one.artifact))
    gone = [Assignment(artifact, Action.RELEASE) for artifact in releases(book, copies)] if stages or keeps else []
    return NodePlan(node.name, node.uid, (*stages, *keeps, *gone), prediction.ready_at(node.name), tuple(later))
