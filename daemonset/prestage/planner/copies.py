"""Which nodes hold which wanted artifact, and the one copy of each that is guarded: without it the next one comes from far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prestage.api.nodes import Action
from prestage.planner.demands import Demand, Trust
from prestage.planner.ledger import Ledger
from prestage.planner.nodes import NodeState


@dataclass(frozen=True, slots=True)
class Copies:
    """`warm`: by artifact, the nodes that hold it, by name. `wanted`: by artifact, its demands, the surest first."""

    warm: Mapping[str, Sequence[str]]
    wanted: Mapping[str, Sequence[Demand]]


def copies_of(demands: Iterable[Demand], nodes: Iterable[NodeState]) -> Copies:
    """`demands` in their order."""
    wanted = defaultdict[str, list[Demand]](list)
    for demand in demands:
        wanted[demand.artifact].append(demand)
    warm = defaultdict[str, list[str]](list)
    for node in sorted(nodes, key=lambda node: node.name):
        for artifact in node.held:
            if artifact in wanted and node.is_warm(artifact):
                warm[artifact].append(node.name)
    return Copies(warm, wanted)


def guard_copies(ledger: Ledger, copies: Copies) -> None:
    """One copy of each keeps its room: where a bound pod uses it, else where it was kept before, else where bound pods and other
    guards leave most."""
    bound_bytes = defaultdict[str, int](int)
    used = set[tuple[str, str]]()
    for artifact, demands in copies.wanted.items():
        for demand in demands:
            if demand.trust is Trust.BOUND:
                for name in demand.at:
                    bound_bytes[name] += 0 if (artifact, name) in used else demand.size_bytes
                    used.add((artifact, name))
    for artifact, warm in sorted(copies.warm.items(), key=lambda pair: (len(pair[1]), pair[0])):  # who has a choice comes last
        holders = [name for name in warm if not ledger.books[name].node.is_leaving]
        if not holders:
            continue

        def room(name: str, artifact: str = artifact) -> tuple[bool, bool, float]:
            book = ledger.books[name]
            before = book.node.planned.get(artifact)
            is_planned = before is not None and before.action is not Action.RELEASE
            return (artifact, name) in used, is_planned, book.free_bytes - bound_bytes[name]

        best = max(holders, key=room)
        ledger.books[best].guard(artifact, copies.wanted[artifact][0].size_bytes)


def homes(ledger: Ledger, copies: Copies, artifact: str, node: str) -> list[tuple[str, Demand]]:
    """Other nodes on which a demand for it could run and that have room for it, most room first; with that demand."""
    best: dict[str, Demand] = {}
    for demand in copies.wanted[artifact]:
        for other in demand.feasible:
            book = ledger.books.get(other)
            if book is None or other in best or other == node or not book.node.takes_more:
                continue
            if ledger.refusal(demand, other) is None:
                best[other] = demand
    return sorted(best.items(), key=lambda pair: (-ledger.books[pair[0]].free_bytes, pair[0]))
