"""How images stand on this node, as NodeCache has it: artifacts, states, bytes; no name, no digest of a registry. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from prestage.api.nodes import IMAGES_MAX, Action, EntryType, HeldArtifact, ImagesStatus, NodeCacheStatus, State, Step
from prestage.cacher.digests import ArtifactId
from prestage.images.containerd.setup import Setup
from prestage.images.room import UNPACKED_TIMES, Disk
from prestage.node.images.deciding import ImagePlan, Scene

_STEPS: Final = {"resolve": Step.RESOLVE, "unpack": Step.UNPACK, "done": Step.UNPACK}
_UNITS: Final = 200
"""Parts of a disk: what others write on it is no news each second."""


@dataclass(frozen=True, slots=True)
class Way:
    """How far the one under way is, of all of its bytes. None: its size is not known yet."""

    step: str
    fetched: int | None = None
    unpacked: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ImagesLook:
    """One look."""

    setup: Setup
    scene: Scene
    way: Way | None = None
    disk: Disk | None = None
    """containerd's; None: it cannot be seen from here."""
    high_water: float = 0.8
    drop_blobs: bool = False
    rates: Sequence[float] = field(default_factory=tuple)


def entry_of(artifact: ArtifactId, plan: ImagePlan, look: ImagesLook) -> HeldArtifact:
    """How it stands."""
    scene, planned = look.scene, plan.entries.get(artifact)
    row, failed = scene.shelf.get(artifact), scene.failed.get(artifact)
    held = partial(HeldArtifact, digest=artifact, type=EntryType.IMAGE)
    if row is not None and row.state == "warm":
        is_leaving = planned is not None and planned.action is Action.RELEASE
        return held(state=State.RELEASING if is_leaving else State.WARM, wasted=row.wasted_bytes or None)
    if artifact == scene.running:
        way = look.way or Way("resolve")
        return held(state=State.STAGING, step=_STEPS.get(way.step, Step.DOWNLOAD), fetched=way.fetched, unpacked=way.unpacked)
    if failed is not None:
        return held(state=State.FAILED, error_class=failed.error_class, error_code=failed.code)
    return held(state=State.PENDING)


def budget_of(disk: Disk, used: int, *, high_water: float, drop_blobs: bool) -> int:
    """Compressed bytes of images that fit below the mark, those that are held included: what unpacking adds is guessed."""
    times = UNPACKED_TIMES + (0 if drop_blobs else 1)
    room = max(0.0, disk.free_bytes - (1 - high_water) * disk.total_bytes)
    unit = max(1, disk.total_bytes // _UNITS)
    return used + int(room // unit * unit / times)


def status_of(plan: ImagePlan, look: ImagesLook, now: datetime.datetime) -> NodeCacheStatus:
    """Our part of it."""
    scene, setup = look.scene, look.setup
    names = [*plan.entries, *(name for name in scene.shelf if name not in plan.entries)]
    entries = [entry_of(name, plan, look) for name in names if name in scene.shelf or _is_told(name, plan)]
    used = sum(row.size_bytes for row in scene.shelf.values() if row.state == "warm")
    rates = sorted(look.rates)
    images = ImagesStatus(
        runtime=setup.version[:64],
        snapshotter=setup.snapshotter[:63],
        discards_layers=setup.discards_layers,
        remote_snapshotters=[name[:63] for name in setup.proxied[:16]] or None,
        budget=None if look.disk is None or setup.is_left_alone else _budget(look.disk, used, look),
        used=used,
        wasted=sum(row.wasted_bytes for row in scene.shelf.values()) or None,
        rate_p10=int(rates[len(rates) // 10]) if rates else None,
        heartbeat_at=now.replace(microsecond=0),
    )
    return NodeCacheStatus(artifacts=entries[:IMAGES_MAX] or None, images=images)


def _budget(disk: Disk, used: int, look: ImagesLook) -> int:
    return budget_of(disk, used, high_water=look.high_water, drop_blobs=look.drop_blobs)


def _is_told(artifact: ArtifactId, plan: ImagePlan) -> bool:
    """What is to go and is not here says nothing."""
    planned = plan.entries.get(artifact)
    return planned is not None and planned.action is not Action.RELEASE


def news_of(status: NodeCacheStatus) -> Mapping[str, object]:
    """What somebody waits for; heartbeats and a few bytes are not."""
    entries = {one.digest: (one.state, one.step, one.error_class, one.error_code, one.wasted) for one in status.artifacts or ()}
    return {**entries, "has_budget": status.images is not None and status.images.budget is not None}
