"""What stays: copies of what is wanted, first ones before second ones, as far as there is room; and what goes first."""

from __future__ import annotations

from prestage.api.nodes import Action, State
from prestage.planner.copies import Copies
from prestage.planner.demands import Demand
from prestage.planner.ledger import Book, Ledger
from prestage.planner.plans import Reason


def keep_copies(ledger: Ledger, copies: Copies) -> None:
    """Guarded copies, then all others. Where a wall or the budget is in the way a copy is not listed: it stays until the node
    needs its room."""
    offers = list[tuple[int, int, int, str, str, Demand]]()
    for artifact, holders in copies.warm.items():
        demand = copies.wanted[artifact][0]
        for number, name in enumerate(sorted(holders, key=lambda name: (artifact not in ledger.books[name].guarded, name))):
            offers.append((number, demand.trust, -demand.priority, artifact, name, demand))
    for _, _, _, artifact, name, _ in sorted(offers, key=lambda offer: offer[:5]):
        book = ledger.books[name]
        if artifact not in book.promises:
            refused: Reason | None = Reason.NODE_FULL
            for demand in copies.wanted[artifact]:
                refused = ledger.promise(demand, name, Action.KEEP)
                if refused is None:
                    break
            if refused is not None:
                book.let_go(artifact)


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
