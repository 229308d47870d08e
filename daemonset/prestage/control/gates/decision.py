"""Whether a pod is gated: at admission (put the gate on?), and while it is (keep it?). Pure; the table is docs/gates.md.

Rows are tried from the top; the first that applies decides. Autoscalers do not see gated pods, and a gated rollout runs into
its progress deadline: a gate is kept only while it is known to bring the pod to warm files sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prestage.api.annotations import OnTimeout, WaitFor

UNWELL_S: Final = 15.0
"""A leader whose lease is older does not decide any more: it could not take the gate off (leases.Terms.lease_s)."""
ROLLOUT_MARGIN_S: Final = 60.0
"""What a rollout needs beyond our files before its progress deadline: image, start, readiness."""
RESOLVE_S: Final = 10.0
"""For so long a ref may be on its way to its manifest: until then its size, hence when it is ready, is not known."""
PLAN_S: Final = 3.0
"""For so long a plan may be on its way that has a node stage an image (docs/planning.md: at most a second or two)."""


class Decision(StrEnum):
    """GATE: put it on, keep it on. FREE: no gate, release it. FAIL: release it by failing the pod."""

    GATE = "Gate"
    FREE = "Free"
    FAIL = "Fail"


class Reason(StrEnum):
    """Which row."""

    PLACED = "Placed"
    NOT_WANTED = "NotWanted"
    CONTROLLER_UNWELL = "ControllerUnwell"
    OTHER_GATES = "OtherGates"
    WARM_NODE = "WarmNode"
    NO_NODE_FITS = "NoNodeFits"
    NO_ROOM = "NoRoom"
    TIMED_OUT = "TimedOut"
    ROLLOUT_DUE = "RolloutDue"
    CANNOT_BE_WARM = "CannotBeWarm"
    PLANNING = "Planning"
    IMAGE_PULLED = "ImagePulled"
    RESOLVING = "Resolving"
    UNKNOWN = "Unknown"
    LAST_CHANCE = "LastChance"
    TOO_LATE = "TooLate"
    READY_SOON = "ReadySoon"


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of one pod. Seconds; None: not known.

    `fitting`: existing nodes that could take it if they were empty. `with_room`: of those, nodes that have the resources free
    now. `models_with_room`: of those, nodes that hold all its models; `warm_with_room`: of these, nodes that hold its images too,
    or stage none. `images_coming`: one of those that hold its models is at its images, or told to be; `images_possible`: or could
    be told. `ready_in_s`: when the soonest of the nodes with room holds what it is told to; where some hold its models, of these.
    `waited_s`: since ours is the only gate. `lease_age_s`: since the leader renewed; None: nobody leads.
    """

    placed: bool = False
    gated: bool = False
    wait: WaitFor = WaitFor.AUTO
    on_timeout: OnTimeout = OnTimeout.MOUNT
    gate_timeout_s: float = 150.0
    lease_age_s: float | None = 0.0
    other_gates: bool = False
    fitting: int = 0
    with_room: int = 0
    models_with_room: int = 0
    warm_with_room: int = 0
    images_coming: bool = False
    images_possible: bool = False
    failed: bool = False
    resolved: bool = True
    ready_in_s: float | None = None
    waited_s: float = 0.0
    rollout_left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: `applies` decides, `when` and `why` are for people."""

    decision: Decision
    reason: Reason
    when: str
    why: str
    applies: Callable[[Situation], bool]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done, and by which row."""

    decision: Decision
    reason: Reason


def is_unwell(lease_age_s: float | None) -> bool:
    """Nobody would take a gate off. `lease_age_s`: since the leader renewed; None: nobody leads."""
    return lease_age_s is None or lease_age_s > UNWELL_S


def _left_s(seen: Situation) -> float:
    return seen.gate_timeout_s - seen.waited_s


def _is_late(seen: Situation) -> bool:
    return seen.ready_in_s is not None and seen.ready_in_s > _left_s(seen)


def _images_left(seen: Situation) -> bool:
    """Its models are there, and nobody is at its images."""
    return seen.models_with_room > 0 and not seen.images_coming


def _rollout_due(seen: Situation) -> bool:
    return seen.rollout_left_s is not None and seen.rollout_left_s < (seen.ready_in_s or 0.0) + ROLLOUT_MARGIN_S


_F, _G, _X = Decision.FREE, Decision.GATE, Decision.FAIL
ROWS: Final = (
    Row(_F, Reason.PLACED, "it is bound to a node (`spec.nodeName`)", "the API server refuses gates there", lambda s: s.placed),
    Row(
        _F,
        Reason.NOT_WANTED,
        "`prestage.dev/wait` is `Mount` or `None`",
        "the user said so",
        lambda s: s.wait is not WaitFor.AUTO,
    ),
    Row(
        _F,
        Reason.CONTROLLER_UNWELL,
        "the planner's lease is older than 15 s, or nobody holds it",
        "nobody would take the gate off",
        lambda s: is_unwell(s.lease_age_s),
    ),
    Row(
        _G,
        Reason.OTHER_GATES,
        "it has other gates too (Kueue's)",
        "a gate cannot be put on later; it is decided once ours is the last",
        lambda s: s.other_gates,
    ),
    Row(
        _F,
        Reason.WARM_NODE,
        "a fitting node with room holds all its models, and its images where it stages images",
        "it is preferred; nothing is to be waited for",
        lambda s: s.warm_with_room > 0,
    ),
    Row(
        _F,
        Reason.NO_NODE_FITS,
        "no existing node fits (scale from zero)",
        "the autoscaler acts on Unschedulable pods only",
        lambda s: s.fitting == 0,
    ),
    Row(
        _F,
        Reason.NO_ROOM,
        "nodes fit, none has room now (warm ones are full)",
        "the scheduler may preempt, the autoscaler add a node: both need to see it",
        lambda s: s.with_room == 0,
    ),
    Row(
        _X,
        Reason.TIMED_OUT,
        "it waited for `gate-timeout`, `on-timeout` is `Fail`, and no node with room holds its models",
        "the user said so",
        lambda s: _left_s(s) <= 0 and s.on_timeout is OnTimeout.FAIL and not s.models_with_room,
    ),
    Row(
        _F,
        Reason.TIMED_OUT,
        "it waited for `gate-timeout`, and `on-timeout` is `Mount`, or only its images are missing",
        "the mount waits, at top priority; images are pulled by the kubelet",
        lambda s: _left_s(s) <= 0,
    ),
    Row(
        _F,
        Reason.ROLLOUT_DUE,
        "its Deployment's progress deadline comes within 60 s of when it would be ready",
        "a gated rollout ends in ProgressDeadlineExceeded",
        _rollout_due,
    ),
    Row(
        _F,
        Reason.CANNOT_BE_WARM,
        "staging failed on every node with room",
        "the mount tells why, where people look",
        lambda s: s.failed,
    ),
    Row(
        _G,
        Reason.PLANNING,
        "nodes with room hold its models, one could stage its images, and for less than 3 s no plan says so",
        "the plan is made in a moment",
        lambda s: _images_left(s) and s.images_possible and s.waited_s < PLAN_S,
    ),
    Row(
        _F,
        Reason.IMAGE_PULLED,
        "nodes with room hold its models, and none of them is at its images",
        "the kubelet's own pull begins at once",
        _images_left,
    ),
    Row(
        _G,
        Reason.RESOLVING,
        "its refs are being resolved, for less than 10 s",
        "the size, and with it the time, is known in a moment",
        lambda s: not s.resolved and s.waited_s < RESOLVE_S,
    ),
    Row(
        _F,
        Reason.UNKNOWN,
        "when it will be ready is not known",
        "nothing says that waiting helps",
        lambda s: not s.resolved or s.ready_in_s is None,
    ),
    Row(
        _G,
        Reason.LAST_CHANCE,
        "it is gated, would be late, and `on-timeout` is `Fail`",
        "it fails at its timeout, as the user said",
        lambda s: s.gated and s.on_timeout is OnTimeout.FAIL and not s.models_with_room and _is_late(s),
    ),
    Row(
        _F,
        Reason.TOO_LATE,
        "it would be ready after `gate-timeout`",
        "mount and pull wait as well, and meanwhile others may help",
        _is_late,
    ),
    Row(
        _G,
        Reason.READY_SOON,
        "some existing node has room now and will be warm inside `gate-timeout`",
        "it starts there, warm",
        lambda s: True,
    ),
)


def decide(seen: Situation) -> Verdict:
    """By the first row that applies."""
    row = next(row for row in ROWS if row.applies(seen))
    return Verdict(row.decision, row.reason)


def table() -> str:
    """The rows as Markdown: docs/gates.md holds it, a test compares."""
    lines = ["| | when | decision | reason | because |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {row.when} | {row.decision} | `{row.reason}` | {row.why} |" for n, row in enumerate(ROWS, 1)]
    return "\n".join(lines) + "\n"
