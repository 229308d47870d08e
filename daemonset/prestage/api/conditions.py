"""Conditions by the API conventions: `status` decides when a transition was; a message alone is none. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from prestage.api.values import Condition, ConditionStatus


def find(conditions: Iterable[Condition] | None, type: str) -> Condition | None:  # noqa: A002  the API's word
    """That of `type`."""
    return next((one for one in conditions or () if one.type == type), None)


def holds(conditions: Iterable[Condition] | None, type: str) -> bool:  # noqa: A002
    """True where it is there and says True."""
    found = find(conditions, type)
    return found is not None and found.status is ConditionStatus.TRUE


def with_condition(
    before: Sequence[Condition] | None,
    type: str,  # noqa: A002
    status: ConditionStatus,
    *,
    reason: str,
    message: str = "",
    now: datetime.datetime,
    generation: int | None = None,
) -> list[Condition]:
    """`before` with this one in its place, the others untouched. Equal to `before` where it says nothing new."""
    old = find(before, type)
    since = old.last_transition_time if old is not None and old.status is status else now.replace(microsecond=0)
    new = Condition(
        type=type, status=status, reason=reason, message=message, last_transition_time=since, observed_generation=generation
    )
    kept = list(before or ())
    if old is None:
        return [*kept, new]
    return [new if one.type == type else one for one in kept]


def summed(conditions: Sequence[Condition], parts: Sequence[str]) -> tuple[ConditionStatus, str, str]:
    """Status, reason and message of `Ready`: the first of `parts` that is not True speaks; one that is missing is Unknown."""
    for part in parts:
        found = find(conditions, part)
        if found is None:
            return ConditionStatus.UNKNOWN, f"{part}Unknown", f"{part} has not been looked at yet"
        if found.status is not ConditionStatus.TRUE:
            return found.status, found.reason, found.message
    return ConditionStatus.TRUE, "Ready", ""


def same(left: Sequence[Condition] | None, right: Sequence[Condition] | None) -> bool:
    """True where writing one over the other would change nothing."""
    return list(left or ()) == list(right or ())
