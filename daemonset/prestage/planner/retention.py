"""What stays: copies of what is wanted, first ones before second ones, then what is worth most for its bytes, as far as there is
room; and what goes first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set

from prestage.api.nodes import Action, State
from prestage.planner.copies import Copies
from prestage.planner.demands import Demand, Trust
from prestage.planner.ledger import Book, Ledger
from prestage.planner.plans import Reason
from prestage.planner.rooms import NOW
from prestage.planner.rules import Worth
from prestage.planner.values import Values

_OFTEN = 2
"""What is larger than its share, and came less often than so, is not kept."""
_Offer = tuple[tuple[int, float, int, int, int, bool, str, str], tuple[Demand, ...]]
"""Its place, and whose bytes it may be: of what is worth the same, what stayed before goes on to stay."""


def keep_copies(ledger: Ledger, copies: Copies, values: Values, worth: Worth) -> None:
    """Guarded copies, then all others. Where a wall or the budget is in the way a copy is not listed: it stays until the node
    needs its room. On a node where all have room, within the walls of those whose it is, nothing is weighed."""
    wanting = {name: _to_keep(ledger, book, copies, values, worth) for name, book in ledger.books.items()}
    spacious = ledger.spacious(copies.wanted.get(one.artifact, ()) for demands in wanting.values() for one in demands)
    tight = {name for name, demands in wanting.items() if not _keeps_all(ledger, ledger.books[name], demands, spacious)}
    offers = sorted([*_wanted(ledger, copies, values, worth, tight), *_once(ledger, copies, values, worth, tight)])
    _let_go_of_what_has_no_room(ledger, offers)
    for key, demands in offers:
        artifact, name = key[-2:]
        book = ledger.books[name]
        if artifact in book.promises and book.promises[artifact].not_before is None:
            continue
        refused: Reason | None = Reason.NODE_FULL
        for demand in demands:
            refused = ledger.promise(demand, name, Action.KEEP, NOW)
            if refused is None:
                break
        if refused is not None:
            book.let_go(artifact)


def _let_go_of_what_has_no_room(ledger: Ledger, offers: Sequence[_Offer]) -> None:
    """A node may hold more last copies than it may keep: the room of the worst is the others'."""
    for (*_, artifact, name), _demands in reversed(offers):
        book = ledger.books[name]
        if artifact in book.guarded and book.free_bytes < 0:
            book.let_go(artifact)


def _to_keep(ledger: Ledger, book: Book, copies: Copies, values: Values, worth: Worth) -> list[Demand]:
    """What is there, is not promised from now on anyway, and is wanted or was used."""
    found = list[Demand]()
    for artifact in book.node.held:
        promise = book.promises.get(artifact)
        if promise is not None and promise.not_before is None:
            continue
        if artifact in copies.wanted:
            if book.node.is_warm(artifact):
                found.append(copies.wanted[artifact][0])
        elif (once := _kept_for_once(ledger, book, artifact, values, worth)) is not None:
            found.append(once)
    return found


def _keeps_all(ledger: Ledger, book: Book, demands: Sequence[Demand], spacious: Set[str]) -> bool:
    """Does so, where there is room."""
    if not ledger.has_room_for(book, demands, spacious):
        return False
    for demand in demands:
        ledger.keep(demand, book)
    return True


def _wanted(ledger: Ledger, copies: Copies, values: Values, worth: Worth, tight: Set[str]) -> Iterator[_Offer]:
    for artifact, holders in copies.warm.items():
        if tight.isdisjoint(holders):
            continue
        demand = copies.wanted[artifact][0]
        ranked = sorted(holders, key=lambda name: (artifact not in ledger.books[name].guarded, name))
        for number, name in enumerate(ranked):
            if name not in tight:
                continue
            book = ledger.books[name]
            density = _stayed(book, artifact, worth) * values.density(artifact, demand.size_bytes, book, number=number)
            is_first = artifact in book.guarded
            is_new = artifact not in book.node.planned
            key = (0 if is_first else 1, -density, number, demand.trust, -demand.priority, is_new, artifact, name)
            yield key, tuple(copies.wanted[artifact])


def _once(ledger: Ledger, copies: Copies, values: Values, worth: Worth, tight: Set[str]) -> Iterator[_Offer]:
    """What was started once and is wanted by nobody now; further copies are worth less here too."""
    holders = dict[str, list[str]]()
    for name in tight:
        book = ledger.books[name]
        for artifact in book.node.held:
            if artifact in copies.wanted or (demand := _kept_for_once(ledger, book, artifact, values, worth)) is None:
                continue
            if artifact not in holders:
                holders[artifact] = sorted(one for one in ledger.near[artifact] if ledger.books[one].node.is_warm(artifact))
            number = holders[artifact].index(name)
            density = _stayed(book, artifact, worth) * values.density(artifact, demand.size_bytes, book, number=number)
            is_new = artifact not in book.node.planned
            yield (1, -density, 0, Trust.STANDING + 1, 0, is_new, artifact, name), (demand,)


def _kept_for_once(ledger: Ledger, book: Book, artifact: str, values: Values, worth: Worth) -> Demand | None:
    use = values.uses.get(artifact)
    if use is None or not book.node.is_warm(artifact):
        return None
    is_giant = use.size_bytes > worth.giant * book.room.limit_bytes
    if is_giant and use.weight_at(ledger.now, worth.half_life_s) < _OFTEN:
        return None
    return Demand("", artifact, use.size_bytes, "", Trust.STANDING)


def _stayed(book: Book, artifact: str, worth: Worth) -> float:
    return worth.hysteresis if artifact in book.node.planned else 1.0


def price(book: Book, artifact: str, size_bytes: int, copies: Copies, values: Values) -> float:
    """What would be lost until the horizon if it were there from now on: the worth of what would have to go, as a share of its
    own. 0: nothing goes. inf: it does not fit beside what is promised, or nobody knows what is there."""
    node = book.node
    if node.budget_bytes is None or node.used_bytes is None:
        return math.inf
    lacking = node.used_bytes + size_bytes - node.budget_bytes
    if lacking <= 0:
        return 0.0
    goes = list[tuple[float, int]]()
    for other in node.held:
        size, promise = _size(other, copies, values), book.promises.get(other)
        is_free = other not in book.guarded and (promise is None or promise.starts > -math.inf)
        if is_free and size is not None and node.is_warm(other):
            goes.append((values.density(other, size, book), size))
    lost = 0.0
    for density, size in sorted(goes):
        lost += density * size
        lacking -= size
        if lacking <= 0:
            own = values.density(artifact, size_bytes, book) * size_bytes
            return lost / own if own > 0 else math.inf if lost > 0 else 0.0
    return math.inf


def _size(artifact: str, copies: Copies, values: Values) -> int | None:
    if artifact in copies.wanted:
        return copies.wanted[artifact][0].size_bytes
    use = values.uses.get(artifact)
    return None if use is None else use.size_bytes


def releases(book: Book, copies: Copies) -> list[str]:
    """What nobody wants goes before a copy of what is wanted that found no room: only then it has to be said, for a node lets
    go of what is not listed by its own last use, and what is released before that."""
    unlisted = [artifact for artifact in book.node.held if artifact not in book.promises]
    if not any(artifact in copies.wanted and book.node.is_warm(artifact) for artifact in unlisted):
        return []
    return sorted(
        artifact
        for artifact in unlisted
        if artifact not in copies.wanted and book.node.held[artifact].state in (State.WARM, State.RELEASING)
    )
