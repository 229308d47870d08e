"""The last plan with what is known of nodes that are asked for: made once for all statuses and events. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prestage.control.capacity.told import Capacity, Said
from prestage.control.capacity.wishes import Wish
from prestage.control.demand.declared import Declaration
from prestage.control.planning.board import Posted
from prestage.planner.rules import Rules


@dataclass(frozen=True, slots=True)
class Foresight:
    """See the fields."""

    capacity: Capacity = field(default_factory=Capacity)
    awaited: Mapping[str, float] = field(default_factory=dict)
    """When demands that lack nodes are warm on those that are asked for, by their ids."""
    wishes: Mapping[str, Sequence[Wish]] = field(default_factory=dict)
    """By the UID of their schedule."""

    def said(self, declaration: Declaration, now: float) -> Said | None:
        """What one schedule says of it; None: it asks for no nodes."""
        return self.capacity.said(declaration, self.wishes.get(declaration.subject.uid, ()), now)


def foresight_of(capacity: Capacity, posted: Posted, rules: Rules, now: float) -> Foresight:
    """Of one plan."""
    found = capacity.wishes(posted.collected, posted.nodes, rules)
    by_schedule = defaultdict[str, list[Wish]](list)
    for wish in found:
        by_schedule[wish.subject.uid].append(wish)
    return Foresight(capacity, capacity.awaited(posted.collected, posted.plan, found, now), by_schedule)
