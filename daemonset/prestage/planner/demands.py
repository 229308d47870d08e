"""Demand: a statement that an artifact will be needed. Where it came from is told by nothing but its trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Trust(IntEnum):
    """How sure it is that it will be needed; the surest first. What comes later never takes room from what came before."""

    BOUND = 1
    """A pod is on the node."""
    WAITING = 2
    """A pod waits for a node: gated or pending."""
    DECLARED = 3
    """Somebody said when: schedules."""
    FOLLOW_ON = 4
    """A burst has begun."""
    STANDING = 5
    """Its template runs: more pods of it may come. Keeps what is warm, stages nothing."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One artifact for one template."""

    id: str
    """Names it, and orders what is otherwise alike."""
    artifact: str
    size_bytes: int
    namespace: str
    """Whose: the walls are its."""
    trust: Trust
    at: Mapping[str, int] = field(default_factory=dict)
    """Node to a number. BOUND: its pods there, each node gets it. Else: how many of those that wait fit there now."""
    feasible: frozenset[str] = frozenset()
    """Where it could run once others end, `at` included."""
    count: int = 1
    """How many wait."""
    ready_by: float | None = None
    """None: now."""
    gpus: int = 0
    """That are idle until it is there."""
    priority: int = 0
    """Of its pods; the ceiling of the walls is applied here."""


@dataclass(frozen=True, slots=True)
class Wall:
    """What a namespace may have; None: no limit. Shared bytes are charged in full to each."""

    bytes_per_node: int | None = None
    bytes: int | None = None
    max_priority: int | None = None
