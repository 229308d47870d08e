"""Plan and shelf in, actions out. Pure.

to stage, not warm, nothing under way        Stage: one image at a time, the most urgent first
one under way, a more urgent class waits     Stop (what came is kept), and it goes on afterwards; ever less often for what fails
under way, not to be staged any more         Stop
staged or kept, its lease half over          Renew
released, or named no more for LINGER_S      Release
the disk above the mark                      Release one that is not to be staged or being pulled, named no more before kept
no NodeCache, an empty one, another Node's   Renew what is here, release nothing but above the mark
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import Action, EntryType, ErrorClass, NodeCacheSpec, PlannedArtifact
from prestage.cacher.digests import ArtifactId
from prestage.images.room import Disk
from prestage.images.shelf import ShelfRow
from prestage.node.plan import Plan, priority_of

LINGER_S: Final = 300.0
"""A plan that does not name it may be of a moment: a pod that is made anew."""
RENEW_AT: Final = 0.5
"""Of a lease's life."""
ABOVE_MARK: Final = 0.02
"""Of the disk: so far above the mark we make room, before the kubelet does (85 % where the mark is 80), which cannot let go of
what we hold and would evict pods."""
RETRY_S, RETRY_PASSING_S = 300.0, 20.0
TURN_MORE, TURN_MOST_S = 4.0, 3600.0
"""What has failed waits so much longer each time before it stops what is under way, which may lose a layer by it."""
_PASSING: Final = frozenset({ErrorClass.BUSY, ErrorClass.UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What the NodeCache says of images. `says_nothing`: of anything."""

    entries: Mapping[ArtifactId, PlannedArtifact] = field(default_factory=dict)
    says_nothing: bool = True
    name: str | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a stage ended. `at`: seconds since the epoch. `times`: one after the other, by one plan."""

    error_class: ErrorClass
    code: str
    at: float
    times: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Begin it, or go on with it."""

    artifact: ArtifactId


@dataclass(frozen=True, slots=True)
class Stop:
    """End what is under way; its bytes and its lease stay."""

    artifact: ArtifactId


@dataclass(frozen=True, slots=True)
class Renew:
    """Keep it for another lease."""

    artifact: ArtifactId


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of it."""

    artifact: ArtifactId


Deed = Stage | Stop | Renew | Release


@dataclass(frozen=True, slots=True)
class Scene:
    """How things are. `unnamed_since`: of what is here and the plan does not name."""

    shelf: Mapping[ArtifactId, ShelfRow] = field(default_factory=dict)
    running: ArtifactId | None = None
    failed: Mapping[ArtifactId, Failed] = field(default_factory=dict)
    unnamed_since: Mapping[ArtifactId, float] = field(default_factory=dict)
    planned_at: float = 0.0
    pulled_at: Mapping[ArtifactId, float] = field(default_factory=dict)
    """When a release was refused, for a pull was running."""
    is_pressed: bool = False
    """The disk is above the mark."""


def is_pressed(disk: Disk | None, high_water: float) -> bool:
    """Whoever filled it."""
    return disk is not None and disk.used > high_water + ABOVE_MARK


def image_plan(spec: NodeCacheSpec, *, generation: int | None, node_uid: str | None) -> ImagePlan:
    """`node_uid`: of the Node that we are on, where we know it."""
    if node_uid is not None and spec.node_uid != node_uid:
        return ImagePlan(name=spec.plan, generation=generation)
    listed = spec.artifacts or ()
    entries = {ArtifactId(one.digest): one for one in listed if one.type is EntryType.IMAGE}
    return ImagePlan(entries, not listed, spec.plan, generation)


def unnamed(plan: ImagePlan, scene: Scene, now: float) -> dict[ArtifactId, float]:
    """Since when the plan names it no more."""
    if plan.says_nothing:
        return {}
    return {one: scene.unnamed_since.get(one, now) for one in scene.shelf if one not in plan.entries}


def decide(plan: ImagePlan, scene: Scene, *, lease_s: float, now: float) -> list[Deed]:
    """What to do now."""
    deeds: list[Deed] = []
    wanted = [] if plan.says_nothing else Plan(plan.entries).to_stage
    running = scene.running
    may_begin = [one for one in wanted if _may_begin(one, scene, now)]
    if running is not None and not plan.says_nothing and _gives_way(running, wanted, may_begin, scene, now):
        deeds.append(Stop(running))
    elif running is None and may_begin:
        deeds.append(Stage(ArtifactId(may_begin[0].digest)))
    going = _first_to_go(plan, scene, now) if scene.is_pressed else None
    for artifact, row in scene.shelf.items():
        if artifact == running:
            continue
        if artifact == going or _is_to_go(artifact, plan, scene, now):
            deeds.append(Release(artifact))
        elif row.expires_at - now < RENEW_AT * lease_s and (plan.says_nothing or artifact in plan.entries):
            deeds.append(Renew(artifact))
    return deeds


def _may_begin(planned: PlannedArtifact, scene: Scene, now: float) -> bool:
    artifact = ArtifactId(planned.digest)
    row, failed = scene.shelf.get(artifact), scene.failed.get(artifact)
    if row is not None and row.state == "warm":
        return False
    return failed is None or failed.at < scene.planned_at or now - failed.at >= _rest_s(failed)


def _rest_s(failed: Failed) -> float:
    return RETRY_PASSING_S if failed.error_class in _PASSING else RETRY_S


def _may_stop_another(planned: PlannedArtifact, scene: Scene, now: float) -> bool:
    """Of what may begin."""
    failed = scene.failed.get(ArtifactId(planned.digest))
    if failed is None or failed.at < scene.planned_at:
        return True
    return now - failed.at >= min(TURN_MOST_S, _rest_s(failed) * TURN_MORE ** min(failed.times - 1, 8))


def _gives_way(
    running: ArtifactId, wanted: Sequence[PlannedArtifact], may_begin: Sequence[PlannedArtifact], scene: Scene, now: float
) -> bool:
    """It is wanted no more, or a more urgent class than its own waits."""
    own = next((one for one in wanted if one.digest == running), None)
    others = (one for one in may_begin if one.digest != running and _may_stop_another(one, scene, now))
    return own is None or any(priority_of(one) < priority_of(own) for one in others)


def _first_to_go(plan: ImagePlan, scene: Scene, now: float) -> ArtifactId | None:
    """Under pressure, one at a time: another look says whether that did. What is to be staged stays, or is being pulled."""

    def place(row: ShelfRow) -> tuple[bool, float, str]:
        return row.artifact in plan.entries, row.expires_at, row.artifact

    stays = {one.digest for one in Plan(plan.entries).to_stage} | {scene.running}
    stays |= {one for one, at in scene.pulled_at.items() if now - at < RETRY_PASSING_S}
    free = [row for row in scene.shelf.values() if row.artifact not in stays]
    return min(free, key=place).artifact if free else None


def _is_to_go(artifact: ArtifactId, plan: ImagePlan, scene: Scene, now: float) -> bool:
    if plan.says_nothing:
        return False
    planned = plan.entries.get(artifact)
    if planned is not None:
        return planned.action is Action.RELEASE
    return now - scene.unnamed_since.get(artifact, now) >= LINGER_S
