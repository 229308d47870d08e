"""A node as the plan sees it: what it holds, what it was told before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prestage.api.nodes import ErrorClass, State
from prestage.planner.plans import Assignment


@dataclass(frozen=True, slots=True)
class Held:
    """One artifact as the node reported it."""

    state: State
    error_class: ErrorClass | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class NodeState:
    """`planned`: its last plan, so that a choice once made stands while it is as good as another."""

    name: str
    uid: str
    budget_bytes: int | None = None
    """None: it did not report yet."""
    is_accepting: bool = True
    """False: cordoned, going, or without an agent. Bound pods are staged for nevertheless."""
    rate_bytes_per_s: float | None = None
    """What nine of ten stages beat; None: not measured yet."""
    held: Mapping[str, Held] = field(default_factory=dict)
    planned: Mapping[str, Assignment] = field(default_factory=dict)

    @property
    def takes_more(self) -> bool:
        """Whether something may be staged there for a pod that is not there yet."""
        return self.is_accepting and self.budget_bytes is not None

    def is_warm(self, artifact: str) -> bool:
        """Whole and verified there."""
        found = self.held.get(artifact)
        return found is not None and found.state is State.WARM
