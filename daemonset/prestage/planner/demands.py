"""Demand: a statement that an artifact will be needed: how surely, from when, until when, on how many nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from prestage.api.nodes import EntryType


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


class ToldBy(StrEnum):
    """What said it. For people: nothing is decided by it."""

    POD = "Pod"
    TEMPLATE = "Template"
    READY_SCHEDULE = "ReadySchedule"
    """The annotation of a workload."""
    STAGING_SCHEDULE = "StagingSchedule"
    CRON_JOB = "CronJob"
    AUTOSCALER = "Autoscaler"
    """A floor of HPA or KEDA."""
    ROLLOUT = "Rollout"
    """A new template, before its pods."""
    FOLLOW_ON = "FollowOn"
    NEW_NODE = "NewNode"


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
    """When its window begins: it is to be warm by then. None: now."""
    until: float | None = None
    """When its window ends: after that it wants nothing. None: nobody knows."""
    source: ToldBy = ToldBy.POD
    copies: int | None = None
    """On how many nodes it is to be warm. None: on so many as have place for `count`."""
    chance: float = 1.0
    """How likely it is that pods come: by the record of what told it. For what is kept, never for whether it is staged."""
    gpus: int = 0
    """That are idle until it is there."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """What its pods need too, with its bytes: their image, their other models. A node that has it is the better one."""
    priority: int = 0
    """Of its pods; the ceiling of the walls is applied here."""
    kind: EntryType = EntryType.MODEL
    """An image goes to containerd's file system, which is another room."""
    together: str = ""
    """What is wanted together says the same: an image goes where the models of its pods go."""


@dataclass(frozen=True, slots=True)
class Wall:
    """What a namespace may have; None: no limit. Shared bytes are charged in full to each."""

    bytes_per_node: int | None = None
    bytes: int | None = None
    pinned: int | None = None
    """Of what was declared, whether somebody uses it or not."""
    max_priority: int | None = None
