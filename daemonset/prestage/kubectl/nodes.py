"""`kubectl prestage nodes`: what each node holds, and how it is."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from prestage.api import conditions
from prestage.api.nodes import EntryType, NodeCache, NodeCacheStatus, State
from prestage.api.texts import quantity_bytes
from prestage.cacher.quantities import human_bytes, human_seconds
from prestage.kube.client import KubeApi
from prestage.kube.resources import NODE_CACHES
from prestage.kubectl.asking import ask, cluster_options, kinds, show
from prestage.kubectl.images import coming

SILENT_S = 180.0
"""An agent that said nothing for three heartbeats is not there."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. Sizes in bytes; None: it has not said."""

    name: str
    ready: str
    warm: int
    staging: int
    failed: int
    used_bytes: int | None
    budget_bytes: int | None
    heard_s: float | None
    message: str
    images: str | None = None
    """Of containerd, where images are staged."""

    @property
    def used(self) -> str | None:
        """For people."""
        return None if self.used_bytes is None else human_bytes(self.used_bytes)

    @property
    def budget(self) -> str | None:
        """For people."""
        return None if self.budget_bytes is None else human_bytes(self.budget_bytes)

    @property
    def heard(self) -> str | None:
        """For people."""
        return None if self.heard_s is None else f"{human_seconds(self.heard_s)} ago"


def rows(caches: Sequence[NodeCache], now: datetime.datetime) -> list[NodeRow]:
    """By name."""
    return sorted((_row(one, now) for one in caches), key=lambda row: row.name)


def _row(cache: NodeCache, now: datetime.datetime) -> NodeRow:
    status = cache.status
    if status is None:
        return NodeRow(cache.metadata.name, "Unknown", 0, 0, 0, None, None, None, "its agent has not reported yet")
    states = Counter(one.state for one in status.artifacts or () if one.type is EntryType.MODEL)
    ready = conditions.find(status.conditions, "Ready")
    heard_s = None if status.heartbeat_at is None else max(0.0, (now - status.heartbeat_at).total_seconds())
    said, message = (ready.status.value, ready.message) if ready else ("Unknown", "")
    if heard_s is not None and heard_s > SILENT_S:
        said, message = "Unknown", f"its agent was last heard {human_seconds(heard_s)} ago"
    failed = [one.error_code or (one.error_class or "") for one in status.artifacts or () if one.state is State.FAILED]
    if failed and not message:
        message = "failed: " + ", ".join(sorted(set(filter(None, failed))))
    return NodeRow(
        name=cache.metadata.name,
        ready=said,
        warm=states[State.WARM],
        staging=states[State.STAGING] + states[State.PENDING],
        failed=states[State.FAILED],
        used_bytes=None if status.used is None else quantity_bytes(status.used),
        budget_bytes=None if status.budget is None else quantity_bytes(status.budget),
        heard_s=heard_s,
        message=message,
        images=_images(status),
    )


def _images(status: NodeCacheStatus) -> str | None:
    if (said := status.images) is None:
        return None
    images = [one for one in status.artifacts or () if one.type is EntryType.IMAGE]
    warm = sum(one.state is State.WARM for one in images)
    if said.snapshotter in (said.remote_snapshotters or ()):
        return f"left to {said.snapshotter}"
    room = "no room is known" if said.budget is None else f"of {human_bytes(quantity_bytes(said.budget))}"
    wasted = f", {human_bytes(quantity_bytes(said.wasted))} wasted: their tags moved" if said.wasted else ""
    return f"{warm} warm{coming(images)}, {human_bytes(quantity_bytes(said.used or 0))} {room}{wasted}"


@click.command()
@cluster_options
def nodes(kubeconfig: Path | None, context: str | None, as_json: bool) -> None:
    """What each node holds: models that are warm, on their way, failed; room; when its agent was last heard."""

    async def question(api: KubeApi) -> list[NodeRow]:
        return rows(await kinds(api, NODE_CACHES, NodeCache) or [], datetime.datetime.now(datetime.UTC))

    columns = ("name", "ready", "warm", "staging", "failed", "used", "budget", "images", "heard", "message")
    nothing = "no NodeCache: is the chart installed, and may you read nodecaches? kubectl prestage doctor"
    show(ask(kubeconfig, context, question), columns, as_json=as_json, nothing=nothing)
