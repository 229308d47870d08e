"""The order of nodes by their room is what sorting anew would give, whatever was promised since; a plan leaves nothing behind."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st
from planning.worlds import node, waiting

from prestage.api.nodes import Action
from prestage.planner.ledger import Ledger

NAMES = [f"n{number:02}" for number in range(24)]


@given(
    st.lists(st.integers(0, 60), min_size=24, max_size=24),
    st.lists(st.tuples(st.integers(0, 23), st.integers(1, 50), st.booleans(), st.integers(1, 24)), max_size=20),
)
def test_the_roomiest_come_first_after_any_promises(budgets: list[int], steps: list[tuple[int, int, bool, int]]) -> None:
    states = [node(name, size, is_accepting=size % 7 != 0) for name, size in zip(NAMES, budgets, strict=True)]
    ledger = Ledger(states, {})
    for number, (place, size, is_guarded, most) in enumerate(steps):
        book, artifact = ledger.books[NAMES[place]], f"a{number}"
        if is_guarded:
            book.guard(artifact, size)
            book.let_go(f"a{number - 2}")
        else:
            ledger.promise(waiting(artifact, book.node.name, size=size), book.node.name, Action.STAGE)
        among, without = frozenset(NAMES[:most]), {NAMES[0]}
        there = [one for one in ledger.books.values() if one.node.takes_more and one.node.name in among - without]
        wanted = sorted(there, key=lambda one: (-one.free_bytes, one.node.name))
        assert list(ledger.roomiest.first(among, without)) == [one.node.name for one in wanted]


def test_what_is_promised_while_nodes_are_asked_for_changes_nothing_of_their_order() -> None:
    ledger = Ledger([node(name, 100 - number) for number, name in enumerate(NAMES)], {})
    found = list[str]()
    for name in ledger.roomiest.first(frozenset(NAMES), ()):
        ledger.promise(waiting("a", *NAMES, size=50), NAMES[-1], Action.STAGE)
        ledger.books[NAMES[3]].guard("b", 60)
        assert next(ledger.roomiest.first(frozenset(NAMES), ())) == NAMES[0]
        found.append(name)
    assert found == NAMES


def test_a_ledger_is_gone_with_its_plan_and_waits_for_no_collection() -> None:
    ledger = Ledger([node("n1")], {})
    ledger.promise(waiting("a", "n1"), "n1", Action.STAGE)
    list(ledger.roomiest.first(frozenset({"n1"}), ()))
    left = weakref.ref(ledger)
    was_on = gc.isenabled()
    gc.disable()
    try:
        del ledger
        assert left() is None
    finally:
        if was_on:
            gc.enable()
