"""Where an artifact goes: to the node of a bound pod, whatever it costs but a guarded copy; for pods that wait, to few nodes;
for a window that is to come, to as many as it asks for, with room from the latest safe start until its end."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from prestage.api.nodes import Action, State
from prestage.planner.copies import Copies, homes
from prestage.planner.demands import Demand, Trust
from prestage.planner.ledger import Book, Ledger, is_declared
from prestage.planner.plans import Reason
from prestage.planner.rooms import Span
from prestage.planner.timing import Timing

_NEAR_S = 3600.0
"""So long ahead the places that are free now say something about those that will be."""
_TRIES = 8
"""Nodes on which room is sought among guarded copies: looking for another home of each costs."""


@dataclass(slots=True)
class Placed:
    """Where a demand was promised, where not and why."""

    nodes: list[str] = field(default_factory=list)
    refused: dict[str, Reason] = field(default_factory=dict)
    missing: int = 0
    """Copies of a window that found no node."""


def place_bound(ledger: Ledger, copies: Copies, demand: Demand) -> Placed:
    """On every node with a pod of it."""
    placed = Placed()
    for node in sorted(name for name in demand.at if name in ledger.books):
        refused = ledger.promise(demand, node, Action.STAGE)
        if refused is Reason.NODE_FULL:
            refused = _over_guards(ledger, copies, demand, node)
        if refused is None:
            placed.nodes.append(node)
        else:
            placed.refused[node] = refused
    return placed


def place_waiting(ledger: Ledger, copies: Copies, demand: Demand, welcome: Collection[str] | None = None) -> Placed:
    """Where it fits now: warm nodes first, then those that are at it, then most free room, until there is place for all that
    wait. Where it fits nowhere now: one copy, for the first node that gets free and for others to take it from. `welcome`: only
    there, and nothing goes for it."""
    placed = Placed()
    ranked = _ranked(ledger, demand, demand.at if welcome is None else welcome)
    left = _spread(ledger, demand, ledger.places.with_some_first(demand, ranked), placed)
    if welcome is not None:
        return placed
    if left > 0 and not placed.nodes:
        for node in _ranked(ledger, demand, demand.feasible - demand.at.keys()):
            if _promise(ledger, demand, node, placed):
                break
    if left > 0 and not placed.nodes:
        full = sorted(name for name, reason in placed.refused.items() if reason is Reason.NODE_FULL)
        for node in full[:_TRIES]:
            if _over_guards(ledger, copies, demand, node) is None:
                placed.nodes.append(node)
                del placed.refused[node]
                break
    return placed


def place_declared(ledger: Ledger, copies: Copies, demand: Demand, timing: Timing, meant: Collection[str] = ()) -> Placed:
    """`meant`: where it was to go by the last plan, though no node was told yet."""
    placed = Placed()
    names = demand.feasible if demand.at.keys() <= demand.feasible else demand.feasible | demand.at.keys()
    ranked = _on_time_first(ledger, demand, timing, names, _with_place_first(ledger, demand, names, meant))
    placed.missing = max(0, _spread(ledger, demand, ranked, placed, timing))
    if not placed.nodes:
        full = sorted(name for name, reason in placed.refused.items() if reason is Reason.NODE_FULL)
        for node in full[:_TRIES]:
            if _over_guards(ledger, copies, demand, node, _span(ledger, demand, node, timing)) is None:
                placed.nodes.append(node)
                del placed.refused[node]
                placed.missing -= 1
                break
    return placed


def _with_place_first(ledger: Ledger, demand: Demand, names: frozenset[str], meant: Collection[str]) -> Iterator[str]:
    """For a window that is near: a copy where no pod of it finds a place is of little use, as long as there is one elsewhere."""
    if not demand.at or not _is_near(ledger, demand) or demand.copies is not None:
        yield from _ranked(ledger, demand, names, meant)
        return
    known = ledger.near.get(demand.artifact, frozenset[str]())
    begun = {name for name in known if name in names and _is_for_a_window(ledger.books[name], demand)}
    begun |= {name for name in meant if name in names}
    among = demand.at.keys() if begun <= demand.at.keys() else demand.at.keys() | begun
    first = set[str]()
    for name in _ranked(ledger, demand, among, meant):  # asked one by one: some of thousands are looked at
        if ledger.places.left(demand, name) > 0:
            first.add(name)
            yield name
    if left := names - first:
        yield from _ranked(ledger, demand, left)


def _is_near(ledger: Ledger, demand: Demand) -> bool:
    return demand.ready_by is None or demand.ready_by <= ledger.now + _NEAR_S


def _spread(ledger: Ledger, demand: Demand, ranked: Iterable[str], placed: Placed, timing: Timing | None = None) -> int:
    """Promises it on one after the other until all its pods have a place that is no surer demand's; on nodes without one only
    until there is place for all if the others come to nothing. Returns how many have none even then."""
    places, lacking = ledger.places, demand.count if demand.copies is None else demand.copies
    pods = lacking if demand.copies is None and _is_near(ledger, demand) else 0
    for node in ranked:
        left = places.left(demand, node) if pods > 0 else 0
        if lacking <= 0 and not (left > 0 and node in demand.at):
            break
        span = None if timing is None else _span(ledger, demand, node, timing)
        if not _promise(ledger, demand, node, placed, span):
            continue
        lacking -= 1 if demand.copies is not None else max(1, demand.at.get(node, 1))
        places.take(demand, node, min(pods, left))
        pods -= min(pods, left)
    return lacking


def _is_for_a_window(book: Book, demand: Demand) -> bool:
    """A choice stands: it was told to stage it for a window, this one or another."""
    before = book.node.planned.get(demand.artifact)
    return before is not None and before.action is Action.STAGE and is_declared(before.priority)


def _on_time_first(
    ledger: Ledger, demand: Demand, timing: Timing, names: Collection[str], ranked: Iterable[str]
) -> Iterator[str]:
    """Nodes that have to fetch too much before it come last. Where no link could bring it in time those that hold it come first,
    and nobody is asked. `names`: of those that may be in `ranked`."""
    if timing.is_hopeless(demand, ledger.books.values()):
        there = (name for name in ledger.there.get(demand.artifact, ()) if name in names)
        nodes = (ledger.books[name].node for name in there)
        yield from _first(ranked, {node.name for node in nodes if node.takes_more and node.is_warm(demand.artifact)})
        return
    too_late = list[str]()
    for node in ranked:
        if demand.ready_by is not None and timing.misses(demand, ledger.books[node]):
            too_late.append(node)
        else:
            yield node
    yield from too_late


def _first(ranked: Iterable[str], some: set[str]) -> Iterator[str]:
    """`some` of them before the others, each in their order; looks no further than the last of these."""
    nodes, others = iter(ranked), list[str]()
    while some and (node := next(nodes, None)) is not None:
        if node in some:
            some.discard(node)
            yield node
        else:
            others.append(node)
    yield from others
    yield from nodes


def _span(ledger: Ledger, demand: Demand, node: str, timing: Timing) -> Span:
    """From now on where it has its room anyway, else from when it has to begin."""
    book = ledger.books[node]
    found = book.promises.get(demand.artifact)
    if demand.artifact in book.guarded or (found is not None and found.starts == -math.inf):
        return ledger.span_of(demand)
    return ledger.span_of(demand, timing.alone(demand, book))


def _promise(ledger: Ledger, demand: Demand, node: str, placed: Placed, span: Span | None = None) -> bool:
    refused = ledger.promise(demand, node, Action.STAGE, span)
    if refused is None:
        placed.nodes.append(node)
        return True
    placed.refused[node] = refused
    return False


def _ranked(ledger: Ledger, demand: Demand, names: Collection[str], meant: Collection[str] = ()) -> Iterator[str]:
    """Those that take more, the best first: nodes that have to do with it already, those with most of what it is made of or its
    pods need beside, then the rest by their room."""
    known = ledger.near.get(demand.artifact, frozenset[str]())
    near = [book for name in known if name in names and (book := ledger.books[name]).node.takes_more]
    saved = ledger.likeness.saved_bytes(demand)
    ranked = sorted(
        (_step(book, demand.artifact), -saved.get(book.node.name, 0), -book.free_bytes, book.node.name) for book in near
    )
    also = [name for name in sorted(meant) if name in names and name not in known and name in ledger.books]
    for step, *_, name in ranked:
        if step < _FAILED:
            yield name
    yield from (name for name in also if ledger.books[name].node.takes_more)
    alike = [name for name in saved if name in names and name not in known and name not in also and name in ledger.books]
    for _, _, name in sorted((-saved[name], -ledger.books[name].free_bytes, name) for name in alike):
        if ledger.books[name].node.takes_more:
            yield name
    yield from ledger.roomiest.first(names, {*known, *also, *alike})
    for step, *_, name in ranked:
        if step == _FAILED:
            yield name


_FAILED = 5
"""Worse than a node that has nothing to do with it."""


def _step(book: Book, artifact: str) -> int:
    """How near it is to being warm there. What was planned before is nearer than what was not: a choice stands."""
    node, held = book.node, book.node.held.get(artifact)
    if held is not None and held.state is State.WARM:
        return 0
    if held is not None and held.state is State.STAGING:
        return 1
    if held is not None and held.state is State.FAILED:
        return _FAILED
    if artifact in book.promises:
        return 2
    before = node.planned.get(artifact)
    return 3 if before is not None and before.action is Action.STAGE else 4


def _over_guards(ledger: Ledger, copies: Copies, demand: Demand, node: str, span: Span | None = None) -> Reason | None:
    """By guarded copies that no other node has room for: those go. If that is not enough, and a pod is bound here: the others
    are staged elsewhere first, and it waits for them."""
    book = ledger.books[node]
    lacking = book.lacks_bytes(demand.artifact, demand.size_bytes, span or ledger.span_of(demand))
    others = [one for one in book.guarded if one != demand.artifact]
    if lacking > sum(book.guarded[one] for one in others):
        return Reason.NODE_FULL
    others.sort(key=lambda one: (-copies.wanted[one][0].trust, -book.guarded[one], one))
    homeless, movable = list[str](), list[str]()
    for artifact in others:
        (movable if homes(ledger, copies, artifact, node) else homeless).append(artifact)
    freed = 0
    for number, artifact in enumerate(homeless, 1):
        freed += book.guarded[artifact]
        if freed >= lacking:
            for gone in homeless[:number]:
                book.let_go(gone)
            return ledger.promise(demand, node, Action.STAGE, span)
    if demand.trust is not Trust.BOUND:
        return Reason.NODE_FULL
    for artifact in movable:
        if freed >= lacking:
            break
        freed += book.guarded[artifact]
        for home, wanting in homes(ledger, copies, artifact, node)[:1]:
            ledger.promise(wanting, home, Action.STAGE)
    return Reason.MOVING
