"""Plan and store in, actions out. Pure.

to stage, not whole, nobody at it          Begin
to stage, somebody at it, less urgently    Begin (asking again urges)
no longer to stage, ours, nobody waits     TakeBack (what was fetched is kept)
failed for good                            Begin again once the plan changes, or after RETRY_S
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId
from prestage.cacher.transfer.limits import Priority
from prestage.node.plan import Plan, priority_of

RETRY_S = 300.0
"""What may pass is tried again by the agent itself, sooner; this is for what it gave up."""


@dataclass(frozen=True, slots=True)
class SeenStage:
    """A stage of an artifact that is named by its digest."""

    id: str
    priority: Priority
    has_ended: bool
    failed_at: float | None = None
    """Seconds since the epoch, of one that failed."""
    listeners: int = 0


@dataclass(frozen=True, slots=True)
class Begin:
    """Stage it, or urge who does."""

    artifact: ArtifactId
    priority: Priority


@dataclass(frozen=True, slots=True)
class TakeBack:
    """End it; its bytes stay for another time."""

    artifact: ArtifactId
    stage: str


Action = Begin | TakeBack


def decide(
    plan: Plan,
    whole: frozenset[ArtifactId],
    stages: Mapping[ArtifactId, SeenStage],
    *,
    planned_at: float,
    now: float,
) -> list[Action]:
    """`whole`: staged and not damaged. `stages`: the newest of each. `planned_at`: when the plan came."""
    if plan.says_nothing:
        return []
    actions: list[Action] = []
    for planned in plan.to_stage:
        artifact, priority = ArtifactId(planned.digest), priority_of(planned)
        stage = stages.get(artifact)
        if artifact in whole:
            continue
        is_at_it = stage is not None and not stage.has_ended
        if is_at_it and stage is not None and priority >= stage.priority:
            continue
        if stage is None or is_at_it or not _gave_up(stage, planned_at, now):
            actions.append(Begin(artifact, priority))
    wanted = {ArtifactId(planned.digest) for planned in plan.to_stage}
    actions += [
        TakeBack(artifact, stage.id)
        for artifact, stage in stages.items()
        if artifact not in wanted and not stage.has_ended and not stage.listeners
    ]
    return actions


def _gave_up(stage: SeenStage, planned_at: float, now: float) -> bool:
    return stage.failed_at is not None and stage.failed_at >= planned_at and now - stage.failed_at < RETRY_S
