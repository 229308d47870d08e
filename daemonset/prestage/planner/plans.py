"""What a plan says: to each node what to hold, of each demand whether it will be met in time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prestage.api.nodes import Action, EntryType, SourceType


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Where bytes come from. `node`: of a peer."""

    type: SourceType
    node: str | None = None


ORIGIN = Source(SourceType.ORIGIN)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One artifact on one node."""

    artifact: str
    action: Action
    priority: int = 0
    """Higher first; the class of its demand is in it."""
    ready_by: float | None = None
    sources: tuple[Source, ...] = ()
    not_before: float | None = None
    """When the node will be told. None: it is told now."""
    kind: EntryType = EntryType.MODEL


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Stages first, in the order in which they are to be done. Empty: keep, evict nothing."""

    node: str
    uid: str
    assignments: tuple[Assignment, ...] = ()
    ready_at: Mapping[str, float | None] = field(default_factory=dict)
    """When each staged artifact will be warm, by the node's own rate; None: nobody can tell."""
    later: tuple[Assignment, ...] = ()
    """What the node will be told to stage if nothing changes, soonest first: it is not told yet."""

    def says_what(self, other: NodePlan) -> bool:
        """Whether it says the same about the same node, in whatever order."""
        if self.uid != other.uid or len(self.assignments) != len(other.assignments):
            return False
        return set(self.assignments) == set(other.assignments)

    @property
    def version(self) -> str:
        """Names what it says: the same as long as it says the same, in whatever order."""
        said = "\n".join(
            f"{one.artifact} {one.action} {one.priority} {one.ready_by} {' '.join(f'{s.type}/{s.node}' for s in one.sources)}"
            for one in sorted(self.assignments, key=lambda one: one.artifact)
        )
        return hashlib.sha256(f"{self.uid}\n{said}".encode()).hexdigest()[:16]


class Outcome(StrEnum):
    """Of a demand."""

    ON_TIME = "OnTime"
    LATE = "Late"
    IMPOSSIBLE = "Impossible"


class Reason(StrEnum):
    """Why it is late or impossible: one word for programs."""

    WARM = "Warm"
    STAGING = "Staging"
    """It is on its way, and needs its time."""
    RETRYING = "Retrying"
    """The last attempt failed with what may pass."""
    STAGE_FAILED = "StageFailed"
    """It failed with what does not pass by itself."""
    MOVING = "Moving"
    """The last copy of another wanted artifact goes to another node first."""
    NO_NODE = "NoNode"
    """No node is there on which it may run, has an agent and takes pods."""
    TOO_LARGE = "TooLarge"
    """Larger than the whole budget of each node on which it may run."""
    NODE_FULL = "NodeFull"
    """What is surer fills each node on which it may run."""
    NAMESPACE_NODE_BYTES = "NamespaceNodeBytes"
    NAMESPACE_BYTES = "NamespaceBytes"
    NAMESPACE_PINNED = "NamespacePinned"
    TOO_MANY = "TooMany"
    """A node's plan has no place for more artifacts."""
    PLANNED = "Planned"
    """It begins later, and in time."""
    TOO_SOON = "TooSoon"
    """Its bytes take longer than what is left until it is wanted."""
    LINK_BUSY = "LinkBusy"
    """What is surer or sooner goes through its node's link first."""
    ORIGIN_BUSY = "OriginBusy"
    """What others take from the origins leaves too little."""
    TOO_FEW_NODES = "TooFewNodes"
    """It is asked for on more nodes than have room for it."""
    OVER = "Over"
    """Its window has ended."""
    KEPT = "Kept"
    """Nothing is asked for but to keep what is warm."""


class Remedy(StrEnum):
    """What would help a demand that is late or impossible."""

    NOTICE = "Notice"
    """Say it earlier: by `amount` seconds."""
    RATE = "Rate"
    """A faster link to its node: `amount` bytes a second."""
    ORIGIN_RATE = "OriginRate"
    """More from the origins for the whole cluster: `amount` bytes a second."""
    ROOM = "Room"
    """A larger store on one node: `amount` bytes more."""
    NODES = "Nodes"
    """Nodes on which it may run, with an agent: `amount` more."""
    QUOTA = "Quota"
    """A wider wall: `amount` bytes more."""
    SOURCE = "Source"
    """Its source, or what may read it, is wrong."""


@dataclass(frozen=True, slots=True)
class Fix:
    """One thing that by itself would make it on time. `amount`: see the remedy; None: nobody can tell."""

    remedy: Remedy
    amount: float | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one demand."""

    outcome: Outcome
    reason: Reason
    nodes: tuple[str, ...] = ()
    """Where it is, or will be."""
    refused: Mapping[str, Reason] = field(default_factory=dict)
    """Where it was asked for and will not be: bound pods, copies of windows."""
    ready_at: float | None = None
    """When the last of them has it; None: nobody can tell."""
    late_by_s: float | None = None
    """After ready_by; None: nobody can tell."""
    error: tuple[str, str] | None = None
    """Class and code of a stage that failed."""
    missing: int = 0
    """Copies that found no node; why is in `refused`, where nodes were asked."""
    start_by: float | None = None
    """The latest safe start of the node that has to begin first; None: all of it is there, or nobody can tell."""
    fix: Fix | None = None
    """Of what is late or impossible, where something is known to help."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For every node that was given, and every demand."""

    nodes: Mapping[str, NodePlan] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    again_at: float | None = None
    """When it will say something else though nothing happened: something is to start. None: not by itself."""
