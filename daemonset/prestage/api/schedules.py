"""StagingSchedule: demand said aloud. When what must be ready where, and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from prestage.api.marks import AGE, Column, Kind, Rule, about, keyed, number, ready_column, text, whole
from prestage.api.rules import as_any_of, at_least_one, exactly_with, exactly_without, needs, not_both, only_with
from prestage.api.values import (
    CRON,
    DNS_LABEL,
    DNS_NAME,
    DURATION,
    TIME_ZONE,
    WORD_PATTERN,
    Conditions,
    Generation,
    LabelSelector,
    Moment,
    NameRef,
    NodeCounts,
    Stored,
    Value,
)


class DemandType(StrEnum):
    """What is staged."""

    MODEL = "Model"
    ADAPTER = "Adapter"
    IMAGE = "Image"
    COMPILE_CACHE = "CompileCache"


class CapacityType(StrEnum):
    """Whether nodes are asked for too. CapacityBuffer: where the cluster serves it, early enough to boot and stage."""

    NONE = "None"
    CAPACITY_BUFFER = "CapacityBuffer"


class ScheduledArtifact(Value, frozen=True, kw_only=True):
    """One thing to stage."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_with("image", "type", "Image", message="write image with type: Image, and only with it"),
        exactly_without("modelRef", "type", "Image", message="write modelRef with every type but Image"),
        only_with("pullSecretRef", "type", "Image", message="pullSecretRef goes with type: Image; a StagedModel has its own"),
    )

    name: Annotated[str, text("Names it in status.", max_length=63, form=DNS_LABEL)]
    type: Annotated[DemandType, about("What it is.")] = DemandType.MODEL
    model_ref: Annotated[NameRef, about("A StagedModel of this namespace.")] | None = None
    image: Annotated[str, text("An image as a container names it.", max_length=1024)] | None = None
    pull_secret_ref: Annotated[NameRef, about("Default: the imagePullSecrets of targetRef.")] | None = None


class TargetRef(Value, frozen=True, kw_only=True):
    """A workload: its nodes, GPUs and pull secrets are taken."""

    api_version: Annotated[str, text("Its apiVersion.")]
    kind: Annotated[str, text("Its kind.", max_length=63)]
    name: Annotated[str, text("Its name.", form=DNS_NAME)]


class NodeChoice(Value, frozen=True, kw_only=True):
    """Which nodes, and how many of them."""

    selector: Annotated[LabelSelector, about("By their labels.")]
    count: Annotated[int, number("The planner chooses so many; all that match when absent.", least=1, most=100000)] | None = None


class Window(Value, frozen=True, kw_only=True):
    """When. Without readySchedule and readyBy: always."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        not_both("readySchedule", "readyBy", message="write readySchedule (again and again) or readyBy (once), not both"),
        as_any_of(
            "duration",
            "readySchedule",
            "readyBy",
            message="a window with readySchedule or readyBy needs a duration, e.g. 10h; one without is always open",
        ),
        needs("timeZone", "readySchedule", message="timeZone goes with readySchedule; readyBy carries its own offset"),
    )

    name: Annotated[str, text("Names it in status.", max_length=63, form=DNS_LABEL)]
    ready_schedule: Annotated[str, text("Cron: when it must be READY, not when to start.", max_length=340, form=CRON)] | None = (
        None
    )
    ready_by: Annotated[Moment, about("Once.")] | None = None
    time_zone: Annotated[str, text("Of readySchedule; UTC when absent.", max_length=64, form=TIME_ZONE)] | None = None
    duration: Annotated[str, text("How long it is needed.", max_length=32, form=DURATION)] | None = None
    replicas: Annotated[int, number("For how many; those of targetRef when absent.", most=100000)] | None = None


class Capacity(Value, frozen=True, kw_only=True):
    """Whether nodes are asked for too."""

    type: Annotated[CapacityType, about("How.")] = CapacityType.NONE
    boot_time: (
        Annotated[
            str,
            text("What a node takes to be up, until boots were measured; 5m when absent.", max_length=32, form=DURATION),
        ]
        | None
    ) = None


class StagingScheduleSpec(Value, frozen=True, kw_only=True):
    """What, where, when."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        at_least_one(
            "targetRef",
            "nodes",
            message="say where: targetRef (a workload, whose nodes are taken) or nodes.selector; an empty selector is every node",
        ),
    )

    suspend: Annotated[bool, about("Keep what is there, start nothing.")] = False
    artifacts: Annotated[list[ScheduledArtifact], keyed("What.", "name", most=32, least=1)]
    target_ref: Annotated[TargetRef, about("For whom.")] | None = None
    nodes: Annotated[NodeChoice, about("Where.")] | None = None
    windows: Annotated[list[Window], keyed("When.", "name", most=32, least=1)]
    priority_class_name: Annotated[str, text("A PriorityClass; CachePolicy says how high.", form=DNS_NAME)] | None = None
    capacity: Annotated[Capacity, about("Whether nodes are asked for too.")] | None = None


class NextWindow(Value, frozen=True, kw_only=True):
    """The next one, and whether it will be met."""

    ATOMIC: ClassVar[bool] = True

    window: Annotated[str, text("Its name.", max_length=63)]
    ready_by: Annotated[Moment, about("The deadline.")]
    start_at: Annotated[Moment, about("The latest safe start.")] | None = None
    predicted_ready_at: Annotated[Moment, about("From bytes, measured rate and backlog.")] | None = None
    late_by: Annotated[str, text("0s when in time.", max_length=32)] | None = None
    message: Annotated[str, text("Why late, and what would help.", max_length=1024, min_length=0)] = ""


class ScheduledState(Value, frozen=True, kw_only=True):
    """Where one artifact stands."""

    name: Annotated[str, text("That of spec.artifacts.", max_length=63)]
    step: Annotated[str, text("Resolve, Download, Unpack or Verify.", max_length=63, pattern=WORD_PATTERN)] | None = None
    nodes: Annotated[NodeCounts, about("Where it is.")] | None = None


class PastWindow(Value, frozen=True, kw_only=True):
    """What became of one."""

    ready_by: Annotated[Moment, about("The deadline.")]
    ready_at: Annotated[Moment, about("When it was; absent: never.")] | None = None
    late_by: Annotated[str, text("0s when in time.", max_length=32)] | None = None
    used: Annotated[bool, about("Whether a pod mounted it.")] = False


class CapacityState(Value, frozen=True, kw_only=True):
    """What is asked of the autoscaler."""

    ATOMIC: ClassVar[bool] = True

    buffer: Annotated[str, text("The CapacityBuffer that stands now.", max_length=253)] | None = None
    replicas: Annotated[int, number("For how many pods, or nodes by a selector.")] | None = None
    request_at: Annotated[Moment, about("When nodes are asked for, for the next window.")] | None = None
    boots: (
        Annotated[
            list[Annotated[str, text("Seconds.", max_length=32)]],
            whole("How long the last boots took, newest first: asked for to taking bytes.", most=10),
        ]
        | None
    ) = None


class StagingScheduleStatus(Value, frozen=True, kw_only=True):
    """Where it stands."""

    observed_generation: Generation = None
    next: Annotated[NextWindow, about("The next window.")] | None = None
    artifacts: Annotated[list[ScheduledState], keyed("Each artifact.", "name", most=32)] | None = None
    history: Annotated[list[PastWindow], whole("The last ten windows, newest first.", most=10)] | None = None
    capacity: Annotated[CapacityState, about("Nodes that are asked for.")] | None = None
    conditions: Conditions = None


class StagingSchedule(Stored, frozen=True, kw_only=True):
    """Demand said aloud: these artifacts are ready on these nodes at these times."""

    spec: StagingScheduleSpec
    status: StagingScheduleStatus | None = None


KINDS = (
    Kind(
        StagingSchedule,
        "stagingschedules",
        namespaced=True,
        short_names=("ss", "stagings"),
        conditions=("Ready", "Resolved", "Feasible", "OnTime", "Capacity"),
        columns=(
            Column("Window", ".status.next.window"),
            Column("Ready-By", ".status.next.readyBy", description="The next deadline"),
            Column("Start-At", ".status.next.startAt", priority=1),
            Column("Late-By", ".status.next.lateBy", description="As predicted now"),
            Column("Suspended", ".spec.suspend", "boolean", priority=1),
            ready_column("OnTime"),
            ready_column(),
            AGE,
        ),
    ),
)
