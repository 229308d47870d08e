"""The node's status: what is said of each artifact, in which order when not all fits, and when it is written. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from prestage.api.conditions import find, with_condition
from prestage.api.nodes import ENTRIES_MAX, MODELS_MAX, Action, ErrorClass, HeldArtifact, NodeCacheStatus, State, Step
from prestage.api.values import Condition, ConditionStatus
from prestage.cacher.agent import stages as agent
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import PrestageError
from prestage.cacher.store.budget import Usage
from prestage.node.plan import Plan

STATUS_BYTES_MAX = 64 << 10
HEARTBEAT_S = 60.0
SOONEST_S = 1.0
WRITE_AGAIN_S = 5.0
"""After a write that failed."""
RATES_MAX = 50
IMAGES_MANAGER = "prestage-images"
"""Who writes what the images container says."""
CLASSES = {
    "misconfigured": ErrorClass.MISCONFIGURED,
    "miss": ErrorClass.NOT_FOUND,
    "denied": ErrorClass.DENIED,
    "corrupt": ErrorClass.CORRUPT,
    "busy": ErrorClass.BUSY,
    "full": ErrorClass.FULL,
    "unavailable": ErrorClass.UNAVAILABLE,
}
"""`PrestageError.kind` to the API's word."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the node."""

    store_id: str
    usage: Usage
    held: Mapping[ArtifactId, str]
    """State of each in the store, as `Listing.state`."""
    stages: Mapping[ArtifactId, agent.Stage]
    """The newest of each."""
    codes: Mapping[ArtifactId, str] = field(default_factory=dict)
    """One word of why, where the broker gave one."""
    rates: Sequence[float] = ()
    """Bytes a second of the last stages that fetched."""
    disk_trouble: str | None = None


def entry_of(artifact: ArtifactId, plan: Plan, look: Look) -> HeldArtifact:
    """How it stands. A running stage says more than the disk; a failure counts until the bytes are whole."""
    held, stage = look.held.get(artifact), look.stages.get(artifact)
    if held == "staged":
        planned = plan.artifacts.get(artifact)
        is_leaving = planned is not None and planned.action is Action.RELEASE
        return HeldArtifact(digest=artifact, state=State.RELEASING if is_leaving else State.WARM)
    if stage is not None and stage.state is agent.State.RUNNING:
        return HeldArtifact(digest=artifact, state=State.STAGING, step=_step(stage), fetched=_fetched(stage))
    if stage is not None and isinstance(stage.outcome, PrestageError):
        error_class = CLASSES.get(stage.outcome.kind, ErrorClass.BUG)
        code = look.codes.get(artifact) or type(stage.outcome).__name__
        return HeldArtifact(digest=artifact, state=State.FAILED, error_class=error_class, error_code=code)
    if held == "damaged" and stage is None:
        return HeldArtifact(digest=artifact, state=State.FAILED, error_class=ErrorClass.CORRUPT, error_code="Damaged")
    return HeldArtifact(digest=artifact, state=State.PENDING)


def _fetched(stage: agent.Stage) -> int | None:
    """What it has, whoever brought it; None: its size is not known yet."""
    resolved, progress = stage.feed.latest("resolved") or {}, stage.feed.latest("progress") or {}
    size, missing = resolved.get("bytes"), resolved.get("missing_bytes")
    if not isinstance(size, int) or not isinstance(missing, int):
        return None
    done, total = progress.get("bytes"), progress.get("total")
    left = total - done if isinstance(done, int) and isinstance(total, int) else missing
    return max(0, size - left)


def _step(stage: agent.Stage) -> Step:
    if stage.feed.latest("resolved") is None:
        return Step.RESOLVE
    return Step.VERIFY if stage.feed.latest("verifying") is not None else Step.DOWNLOAD


def status_of(
    plan: Plan,
    look: Look,
    before: NodeCacheStatus | None,
    now: datetime.datetime,
    *,
    is_current: bool,
    is_beside_images: bool = False,
) -> NodeCacheStatus:
    """What is to be written. `is_current`: the plan is one that was read, not one that was kept from before. `is_beside_images`:
    a part of the entries is the images container's, and one too many of both is refused for ever."""
    known = {one.digest: one for one in (before.artifacts if before is not None else None) or ()}
    names = [*plan.artifacts, *(name for name in look.held if name not in plan.artifacts)]
    entries = [entry_of(name, plan, look) for name in names]
    entries.sort(key=lambda one: _rank(one, known.get(one.digest), plan))  # else as the plan has them
    rates = sorted(look.rates)
    status = NodeCacheStatus(
        observed_generation=plan.generation if is_current else None,
        observed_plan=plan.name,
        store_id=look.store_id,
        budget=look.usage.limit if look.usage.limit > 0 else 0,
        used=look.usage.used,
        reserved=look.usage.reserved,
        origin_rate_p10=int(rates[len(rates) // 10]) if rates else None,
        heartbeat_at=now.replace(microsecond=0),
        artifacts=entries[: MODELS_MAX if is_beside_images else ENTRIES_MAX] or None,
        conditions=_conditions(look, before.conditions if before is not None else None, now),
    )
    return _fitting(status)


def _rank(entry: HeldArtifact, told: HeldArtifact | None, plan: Plan) -> int:
    """Of more than can be told: what is told otherwise, what is planned, what was told. So it is the same ones each time."""
    if told is not None and told != entry:
        return 0
    return 1 if entry.digest in plan.artifacts else 2 if told is not None else 3


def _fitting(status: NodeCacheStatus) -> NodeCacheStatus:
    """As much of it as may be written."""
    entries = list(status.artifacts or ())
    while entries and len(msgspec.json.encode(status)) > STATUS_BYTES_MAX:
        entries = entries[: len(entries) * 9 // 10]
        status = msgspec.structs.replace(status, artifacts=entries)
    return status


def _conditions(look: Look, before: Sequence[Condition] | None, now: datetime.datetime) -> list[Condition]:
    failing = [stage.outcome for stage in look.stages.values() if isinstance(stage.outcome, PrestageError)]
    unreachable = any(outcome.kind == "unavailable" for outcome in failing)
    made = list(before or ())
    if look.disk_trouble is not None:
        made = with_condition(made, "DiskHealthy", ConditionStatus.FALSE, reason="DiskFailed", now=now)
    else:
        made = with_condition(made, "DiskHealthy", ConditionStatus.TRUE, reason="NoFailure", now=now)
    if unreachable:
        made = with_condition(made, "OriginReachable", ConditionStatus.FALSE, reason="NoAnswer", now=now)
    else:
        made = with_condition(made, "OriginReachable", ConditionStatus.TRUE, reason="NoFailure", now=now)
    worst = find(made, "DiskHealthy")
    assert worst is not None
    reason = "Serving" if worst.status is ConditionStatus.TRUE else worst.reason
    return with_condition(made, "Ready", worst.status, reason=reason, now=now)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written last."""

    status: NodeCacheStatus | None = None
    at_s: float = float("-inf")
    """Monotonic."""
    again_at_s: float = float("-inf")
    """Not before: where a write has failed since."""

    def failed(self, now_s: float) -> Written:
        """It stays as it was, and is tried again soon."""
        return replace(self, again_at_s=now_s + WRITE_AGAIN_S)


def due_in_s(written: Written, now_s: float, *, is_news: bool) -> float:
    """How long a write may wait: what changed a state is written within a second, the rest with the next heartbeat."""
    after_s = SOONEST_S if is_news else HEARTBEAT_S
    return max(0.0, written.at_s + after_s - now_s, written.again_at_s - now_s)


def is_news(status: NodeCacheStatus, written: Written) -> bool:
    """A state is another than the one that was written."""
    return written.status is None or states_of(status) != states_of(written.status)


def states_of(status: NodeCacheStatus) -> tuple[object, ...]:
    """What somebody waits for; bytes and heartbeats are not."""
    entries = frozenset((one.digest, one.state, one.step, one.error_class, one.error_code) for one in status.artifacts or ())
    conditions = frozenset((one.type, one.status, one.reason) for one in status.conditions or ())
    has_rate = status.origin_rate_p10 is not None
    return entries, conditions, status.observed_generation, status.observed_plan, status.store_id, has_rate


def newest(stages: Iterable[agent.Stage]) -> dict[ArtifactId, agent.Stage]:
    """Of each artifact: the active one, else the one that ended last. `stages`: active ones first, then the latest."""
    found: dict[ArtifactId, agent.Stage] = {}
    for stage in stages:
        if (artifact := stage.artifact) is not None:
            found.setdefault(artifact, stage)
    return found
