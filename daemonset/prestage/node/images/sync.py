"""NodeCache and containerd: what is planned of images is staged, renewed, released; how it stands is reported.

    NodeCache ──▶ image_plan ──▶ decide (pure) ──▶ one stage at a time; leases renewed and dropped
    containerd's leases, the stage, its disk ──▶ reporting (pure) ──▶ our part of the NodeCache's status

Nothing is known here but what containerd knows: killed at any moment, the next one goes on.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from prestage.api.nodes import ErrorClass, NodeCache, NodeCacheStatus
from prestage.api.reading import Invalid, read
from prestage.cacher.agent.logs import log
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, NotFound, PrestageError
from prestage.images.room import Disk
from prestage.images.shelf import listed
from prestage.images.stager import ImageStager, StagedImage
from prestage.kube.errors import Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Appeared, Changed, Vanished
from prestage.kube.ports import Api, Object, Selection
from prestage.kube.resources import NODE_CACHES
from prestage.node.identity import node_uid_of
from prestage.node.images.deciding import (
    Failed,
    ImagePlan,
    Release,
    Renew,
    Scene,
    Stage,
    Stop,
    decide,
    image_plan,
    is_pressed,
    unnamed,
)
from prestage.node.images.reporting import ImagesLook, Way, news_of, status_of
from prestage.node.images.staging import Staging
from prestage.node.images.tally import Tally
from prestage.node.plan import priority_of
from prestage.node.reporting import CLASSES, IMAGES_MANAGER, RATES_MAX, Written, due_in_s
from prestage.wire.broker_client import refusal_of

LOOK_S: Final = 1.0
SHELF_LOOK_S: Final = 15.0
"""How often containerd's leases are looked at; what we do to them is looked at at once."""
_DONE: Final = {"renew": "image_renewed", "release": "image_released"}


@dataclass(frozen=True, slots=True)
class ImagesSettings:
    """See the fields."""

    node: str
    token: Path
    """Our own: says which Node we are on."""


class ImagesSync:
    """`run` until cancelled."""

    def __init__(self, settings: ImagesSettings, staging: Staging) -> None:
        self._settings, self._staging = settings, staging
        self._stager = ImageStager(staging.containerd, staging.terms)
        self._plan, self._scene = ImagePlan(), Scene()
        self._has_object = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[StagedImage] | None = None
        self._way: Way | None = None
        self._rates: deque[float] = deque(maxlen=RATES_MAX)
        self._shelf_at = float("-inf")
        self.tally = Tally()
        self._written = Written()

    async def run(self, api: Api) -> None:
        """Never returns by itself."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(api))
                group.create_task(self._turn(api))
        finally:
            await self._stop()

    # -- the plan

    async def _follow(self, api: Api) -> None:
        follower = Follower(api, NODE_CACHES, Selection(fields=f"metadata.name={self._settings.node}"))
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Appeared | Changed):
                    await self._read(change.object)
                elif isinstance(change, Vanished) or not len(follower.mirror):
                    self._has_object, self._plan = False, ImagePlan()
                self._changed.set()

    async def _read(self, seen: Object) -> None:
        try:
            found = read(NodeCache, dict(seen))
        except Invalid as exc:
            log("node_cache_unreadable", level=logging.ERROR, fields={"message": str(exc)})
            return
        self._has_object = True
        if found.status is None or found.status.images is None:
            self._written = replace(self._written, status=None)  # a new object: it has been told nothing
        plan = image_plan(found.spec, generation=found.metadata.generation, node_uid=await asyncio.to_thread(self._node_uid))
        if plan.entries != self._plan.entries:
            self._scene = replace(self._scene, planned_at=time.time())
            log("image_plan_taken", fields={"plan": plan.name, "images": len(plan.entries)})
        self._plan = plan

    def _node_uid(self) -> str | None:
        try:
            return node_uid_of(self._settings.token.read_text())
        except (OSError, UnicodeDecodeError):
            return None

    # -- what follows from it

    async def _turn(self, api: Api) -> None:
        """Look, act, say. One at a time."""
        while True:
            self._changed.clear()
            await self._look()
            await self._act()
            await self._say(api)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()

    async def _look(self) -> None:
        if self._task is not None and self._task.done():
            self._ended(self._task)
        if time.monotonic() - self._shelf_at >= SHELF_LOOK_S:
            try:
                rows = {row.artifact: row for row in await listed(self._staging.containerd)}
            except PrestageError as exc:
                log("containerd_not_asked", level=logging.WARNING, fields={"kind": exc.kind})
                return
            self._shelf_at = time.monotonic()
            self._scene = replace(self._scene, shelf=rows)
        staging = self._staging
        pressed = is_pressed(disk_of(staging.containerd.setup.image_root), staging.terms.high_water)
        self._scene = replace(self._scene, unnamed_since=unnamed(self._plan, self._scene, time.time()), is_pressed=pressed)

    def _ended(self, task: asyncio.Task[StagedImage]) -> None:
        artifact = self._scene.running
        self._task, self._way, self._shelf_at = None, None, float("-inf")
        self._scene = replace(self._scene, running=None)
        if artifact is None or task.cancelled():
            return
        failed = {one: why for one, why in self._scene.failed.items() if one != artifact and one in self._plan.entries}
        try:
            staged = task.result()
        except PrestageError as exc:
            refusal = refusal_of(exc)
            code = refusal.code if refusal is not None else type(exc).__name__
            self.tally.failed(exc.kind)
            before = self._scene.failed.get(artifact)
            times = 1 if before is None or before.at < self._scene.planned_at else before.times + 1
            failed[artifact] = Failed(CLASSES.get(exc.kind, ErrorClass.BUG), code, time.time(), times)
            log("image_not_staged", level=logging.WARNING, fields={"artifact": artifact, "kind": exc.kind, "code": code})
        else:
            self.tally.staged(staged)
            if staged.seconds > 0 and staged.fetched_bytes * 2 > staged.size_bytes:
                self._rates.append(staged.size_bytes / staged.seconds)
            log("image_staged", fields={"artifact": artifact, "bytes": staged.fetched_bytes, "seconds": round(staged.seconds, 3)})
        self._scene = replace(self._scene, failed=failed)

    async def _act(self) -> None:
        for deed in decide(self._plan, self._scene, lease_s=self._staging.terms.lease_s, now=time.time()):
            match deed:
                case Stage(artifact):
                    self._begin(artifact)
                case Stop():
                    await self._stop()
                case Renew(artifact):
                    await self._tried("renew", artifact)
                case Release(artifact):
                    await self._tried("release", artifact)

    def _begin(self, artifact: ArtifactId) -> None:
        self._way = Way("resolve")
        self._scene = replace(self._scene, running=artifact)
        priority = priority_of(self._plan.entries[artifact])
        self._task = asyncio.create_task(self._staging.stage(artifact, priority, self._told), name="stage an image")
        self._task.add_done_callback(lambda _: self._changed.set())
        log("image_begun", fields={"artifact": artifact})

    def _told(self, way: Way) -> None:
        if self._way is None or way.step != self._way.step:
            self._changed.set()
        self._way = way

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._ended(self._task)

    async def _tried(self, verb: str, artifact: ArtifactId) -> None:
        """A lease that is gone, or is needed by a pull, is another time's."""
        try:
            await (self._stager.renew(artifact) if verb == "renew" else self._stager.release(artifact))
        except NotFound:
            return
        except Busy:
            pulled_at = {one: at for one, at in self._scene.pulled_at.items() if one in self._scene.shelf}
            self._scene = replace(self._scene, pulled_at={**pulled_at, artifact: time.time()})
            return
        except PrestageError as exc:
            log("image_step_failed", level=logging.WARNING, fields={"verb": verb, "artifact": artifact, "kind": exc.kind})
            return
        self._shelf_at = float("-inf")
        row = self._scene.shelf.get(artifact)
        if verb == "release":
            self.tally.let_go(row)
        fields = {"artifact": artifact, **({"use": row.use, "wasted_bytes": row.wasted_bytes} if row is not None else {})}
        log(_DONE[verb], fields=fields)

    # -- what is said

    def look(self) -> ImagesLook:
        """How things are."""
        terms, setup = self._staging.terms, self._staging.containerd.setup
        return ImagesLook(
            setup, self._scene, self._way, disk_of(setup.image_root), terms.high_water, terms.drop_blobs, tuple(self._rates)
        )

    def status(self) -> NodeCacheStatus:
        """As the NodeCache is told it."""
        return status_of(self._plan, self.look(), datetime.datetime.now(datetime.UTC))

    async def _say(self, api: Api) -> None:
        if not self._has_object:
            return
        status = self.status()
        told = self._written.status
        is_news = told is None or news_of(status) != news_of(told)
        if due_in_s(self._written, time.monotonic(), is_news=is_news) > 0:
            return
        body: Object = {"metadata": {"name": self._settings.node}, "status": msgspec.to_builtins(status)}
        try:
            await api.apply(NODE_CACHES, body, manager=IMAGES_MANAGER, force=True, subresource="status")
        except Missing:
            self._has_object = False
        except PrestageError as exc:
            log("status_not_written", level=logging.WARNING, fields={"kind": exc.kind, "message": exc.message})
            self._written = self._written.failed(time.monotonic())
        else:
            self._written = Written(status, time.monotonic())


def disk_of(root: str) -> Disk | None:
    """containerd's file system; None where its path is not ours too."""
    try:
        room = os.statvfs(root) if root else None
    except OSError:
        return None
    return Disk(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize) if room is not None else None
