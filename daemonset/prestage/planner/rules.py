"""What an operator may change about plans, and why it is as it is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Worth:
    """What is compared when not all can stay: research and figures in docs/simulator.md."""

    wait_s: float = 1.0
    """Of one second that one accelerator waits. The unit of all others."""
    start_s: float = 60.0
    """Of one start that waits at all: people notice that more than its length."""
    half_life_s: float = 72 * 3600.0
    """After so long a start counts half. Of all measured ones the best forecast of the next."""
    hysteresis: float = 1.2
    """What stayed is worth so much more: swapping two that are nearly alike moves bytes for nothing."""
    haste: float = 0.02
    """How likely it is that the latest safe start is too late after all, for another pod took the link. What is lost by going
    sooner is weighed against it."""
    giant: float = 0.3
    """What is larger than this share of the store, and came once, is not kept."""


@dataclass(frozen=True, slots=True)
class Rules:
    """See the fields."""

    peers: bool = True
    """Nodes are told which others hold an artifact."""
    origin_bytes_per_s: float | None = None
    """What all nodes together may take from origins; None: no limit but their own."""
    horizon_s: float = 24 * 3600.0
    """What is wanted later than this is judged, and nothing is staged or kept for it yet."""
    slack: float = 1.3
    """A stage is told when so many times its need is left: the measured rate is what nine of ten beat, not all."""
    guard_s: float = 5.0
    """For what is not transfer: telling the node, verification, publishing."""
    assumed_bytes_per_s: float = 50e6
    """Of a node that did not tell its rate yet: the latest start must not be late by that."""
    per_namespace_max: int = 10_000
    """Demands of one namespace that are planned, bound pods aside: nobody's mistake is everybody's."""
    worth: Worth = field(default_factory=Worth)
