"""A node as the plan sees it: what it holds, what it was told before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prestage.api.nodes import ENTRIES_MAX, ErrorClass, State, Step
from prestage.planner.plans import Assignment


@dataclass(frozen=True, slots=True)
class Held:
    """One artifact as the node reported it."""

    state: State
    error_class: ErrorClass | None = None
    error_code: str | None = None
    step: Step | None = None
    """Of a stage; for people."""


@dataclass(frozen=True, slots=True)
class RateWindow:
    """Another limit at times: the node takes no more than this from origins. Windows that meet: the least of them holds."""

    begins: float
    ends: float
    rate_bytes_per_s: float


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
    rate_windows: tuple[RateWindow, ...] = ()
    """Those that are open now or will be."""
    is_leaving: bool = False
    """It will be gone soon: what is warm there is no copy to count on."""
    used_bytes: int | None = None
    """At rest there, wanted or not, and promised to stages that run. None: it did not say."""
    entries_max: int = ENTRIES_MAX
    """Most artifacts that it can be told of, and tells of."""
    held: Mapping[str, Held] = field(default_factory=dict)
    planned: Mapping[str, Assignment] = field(default_factory=dict)
    takes_more: bool = field(init=False, repr=False, compare=False)
    """Whether something may be staged there for a pod that is not there yet."""
    warm: frozenset[str] = field(init=False, repr=False, compare=False)
    """Whole and verified there: asked thousands of times in each plan, while a node says the same over many."""

    def __post_init__(self) -> None:
        takes_more = self.is_accepting and not self.is_leaving and self.budget_bytes is not None
        object.__setattr__(self, "takes_more", takes_more)
        object.__setattr__(self, "warm", frozenset(name for name, held in self.held.items() if held.state is State.WARM))

    def is_warm(self, artifact: str) -> bool:
        """Whole and verified there."""
        return artifact in self.warm
