"""CachePolicies to walls: what each namespace may have. Several on one namespace: their intersection. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prestage.api.policies import CachePolicy
from prestage.api.selecting import selects
from prestage.api.texts import quantity_bytes
from prestage.planner.demands import Wall


def wall_of(labels: Mapping[str, str], policies: Iterable[CachePolicy]) -> Wall:
    """Of a namespace with these labels: the narrowest of each."""
    found = [policy.spec for policy in policies if selects(policy.spec.namespace_selector, labels)]
    hard = [spec.hard for spec in found if spec.hard is not None]
    return Wall(
        bytes_per_node=_least(one.bytes_per_node for one in hard),
        bytes=_least(one.bytes for one in hard),
        pinned=_least(one.pinned for one in hard),
        max_priority=min((spec.max_priority for spec in found if spec.max_priority is not None), default=None),
    )


def _least(given: Iterable[int | str | None]) -> int | None:
    return min((quantity_bytes(one) for one in given if one is not None), default=None)
