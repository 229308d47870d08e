"""NodeCache and agent: what is planned is staged, how it stands is reported. Runs in the agent's process, on its loop.

    NodeCache ──▶ plan ──▶ reconcile (pure) ──▶ stages begun and taken back; the store's order of eviction
    store, stages ──▶ reporting (pure) ──▶ status of the NodeCache
    plan, store ──▶ starting ──▶ the startup taint of our Node, where it came with one

Without the API server it goes on with the last plan, kept on disk. An absent, empty or re-created NodeCache evicts nothing.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from prestage.api.nodes import NodeCache, NodeCacheSpec, NodeCacheStatus
from prestage.api.reading import Invalid, read
from prestage.cacher.agent import stages as agent
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import StageRequest
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.shown import WORDS
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import NotFound, PrestageError
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import PRIVATE, AddressPolicy
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.staging import Staged
from prestage.cacher.store.budget import Usage
from prestage.cacher.store.format import store_id
from prestage.kube.errors import Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Appeared, Changed, Vanished
from prestage.kube.ports import Api, Object, Selection
from prestage.kube.resources import NODE_CACHES
from prestage.node.broker_origin import Asking, BrokerOrigin, Senders
from prestage.node.identity import node_uid_of
from prestage.node.kept import KeptPlan
from prestage.node.plan import EvictionOrder, Plan, plan_of, said_of
from prestage.node.reconcile import Begin, SeenStage, decide
from prestage.node.reporting import IMAGES_MANAGER, RATES_MAX, Look, Written, due_in_s, is_news, newest, status_of
from prestage.node.starting import Filling, Starting, warm_images
from prestage.node.trust import Trusted
from prestage.wire.broker_client import BrokerClient

MANAGER = "prestage-agent"
LOOK_S = 1.0
"""How often it is looked how stages go on: a state that changed is known within so long."""
STORE_LOOK_S = 30.0
"""How often everything in the store is looked at; what a stage or an evict changes is looked at at once."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """See the fields."""

    root: Path
    node: str
    token: Path
    """Our own: says which Node we are on."""
    trusted: Trusted = field(default_factory=Trusted)
    """The store's."""
    is_beside_images: bool = False
    """An images container runs beside; without one, what one said before is taken back."""


class NodeSync:
    """What an agent's companion is made of (agent.app.Companion)."""

    def __init__(self, settings: NodeSettings, broker: BrokerClient) -> None:
        self.policy = EvictionOrder()
        self._broker, self._settings = broker, settings
        self._kept = KeptPlan(settings.root)
        self._planned_at = 0.0
        self._is_current = False
        self._changed = asyncio.Event()
        self._written = Written()
        self._rates: deque[float] = deque(maxlen=RATES_MAX)
        self._held: dict[ArtifactId, str] = {}
        self._held_at = float("-inf")
        self._counted: set[int] = set()
        self._trouble: str | None = None
        self._usage = Usage(0, 0, 0, 0, None)
        self._has_object = False
        self._known_s: float | None = None
        self._warm_images = frozenset[ArtifactId]()
        if (kept := self._kept.load()) is not None:
            self._take(*kept)

    # -- the companion

    def open_artifact(self, ref: ArtifactRef, cancel: threading.Event) -> BrokerOrigin:
        """See agent.app.Companion."""
        return BrokerOrigin(ref, self._asking, self._senders, cancel)

    async def start(self, service: Service) -> None:
        """See agent.app.Companion."""
        self._service = service
        self._store_id = await asyncio.to_thread(store_id, self._settings.root)
        self._asking = Asking(self._broker, asyncio.get_running_loop(), self._settings.trusted)
        self._kept.folder.mkdir(mode=0o700, exist_ok=True)
        policy = AddressPolicy.tenant_from_environ({PRIVATE: "refuse", **os.environ})
        self._senders = Senders(NetConfig.from_environ(os.environ), policy, self._kept.folder)
        await asyncio.to_thread(self._senders.clear)
        service.on_change = self._store_changed
        service.planned = lambda artifact: said_of(self.policy.plan, artifact)
        service.mounts.is_ahead = True

    async def run(self, api: Api) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(api))
            group.create_task(self._turn(api))
            group.create_task(Starting(self._settings.node, self._filling).run(api))

    def _filling(self) -> Filling:
        whole = frozenset(artifact for artifact, state in self._held.items() if state == "staged")
        return Filling(self.policy.plan, self._is_current and self._has_object, self._known_s, whole | self._warm_images)

    async def close(self) -> None:
        """After the stages have ended."""
        self._senders.close()
        await self._broker.close()

    def _store_changed(self) -> None:
        self._held_at = float("-inf")
        self._changed.set()

    # -- the plan

    async def _follow(self, api: Api) -> None:
        selection = Selection(fields=f"metadata.name={self._settings.node}")
        follower = Follower(api, NODE_CACHES, selection)
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Appeared | Changed):
                    await self._read(change.object)
                    await self._forget_images(api, change.object)
                elif isinstance(change, Vanished) or not len(follower.mirror):
                    self._forget()
                self._changed.set()

    async def _forget_images(self, api: Api, seen: Object) -> None:
        """No images are planned for a node that says nothing of them."""
        status = seen.get("status")
        if self._settings.is_beside_images or not isinstance(status, Mapping) or "images" not in status:
            return
        body: Object = {"metadata": {"name": self._settings.node}, "status": {}}
        try:
            await api.apply(NODE_CACHES, body, manager=IMAGES_MANAGER, force=True, subresource="status")
        except PrestageError as exc:
            log("status_not_written", level=logging.WARNING, fields={"kind": exc.kind, "message": exc.message})

    def _forget(self) -> None:
        """There is no NodeCache: keep everything, and go on with what was begun."""
        if self._has_object or not self.policy.plan.says_nothing:
            log("node_cache_absent", level=logging.WARNING, fields={"node": self._settings.node})
        self._has_object, self._known_s = False, None
        self.policy.plan = Plan()

    async def _read(self, seen: Object) -> None:
        try:
            found = read(NodeCache, dict(seen))
        except Invalid as exc:
            log("node_cache_unreadable", level=logging.ERROR, fields={"message": str(exc)})
            return
        self._has_object = True
        self._warm_images = warm_images(found)
        if found.status is None:
            self._written = Written()  # a new object: it has been told nothing
        elif self._written.status is None:
            self._written = Written(found.status)
        if not found.spec.artifacts:
            log("node_cache_empty", fields={"node": self._settings.node})
        generation = found.metadata.generation
        before = self.policy.plan
        self._take(found.spec, generation)
        self._is_current = True
        if (before.name, before.generation, before.artifacts) != (
            self.policy.plan.name,
            self.policy.plan.generation,
            self.policy.plan.artifacts,
        ):
            log("plan_taken", fields={"plan": found.spec.plan, "artifacts": len(self.policy.plan.artifacts)})
            if found.spec.artifacts:
                await asyncio.to_thread(self._keep, found.spec, generation)

    def _keep(self, spec: NodeCacheSpec, generation: int | None) -> None:
        try:
            self._kept.keep(spec, generation)
        except OSError as exc:
            log("plan_not_kept", level=logging.WARNING, fields={"message": str(exc)})

    def _take(self, spec: NodeCacheSpec, generation: int | None) -> None:
        try:
            uid = node_uid_of(self._settings.token.read_text())
        except (OSError, UnicodeDecodeError):
            uid = None
        plan = plan_of(spec, generation=generation, node_uid=uid)
        if spec.artifacts and plan.says_nothing:
            log("plan_of_another_node", level=logging.WARNING, fields={"node_uid": spec.node_uid})
        if plan.artifacts != self.policy.plan.artifacts:
            self._planned_at = time.time()
        self.policy.plan = plan

    # -- what follows from it

    async def _turn(self, api: Api) -> None:
        """Look, act, say. One at a time."""
        while True:
            self._changed.clear()
            look = await self._look()
            await self._act(self.policy.plan, look)
            await self._say(api, look)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look(self) -> Look:
        service = self._service
        if time.monotonic() - self._held_at > STORE_LOOK_S:
            self._held_at = time.monotonic()
            try:
                self._held = {ArtifactId(row.artifact): row.state for row in await service.artifacts()}
                self._trouble = None
            except PrestageError as exc:
                self._trouble = exc.message
        stages = service.all_stages()
        for stage in stages:
            if isinstance(stage.outcome, Staged) and id(stage) not in self._counted:
                self._count(stage.outcome)
        self._counted = {id(stage) for stage in stages if stage.has_ended}  # one that runs is yet to be counted
        try:
            usage = await service.usage()
        except PrestageError as exc:
            self._trouble = exc.message
            usage = self._usage
        self._usage = usage
        return Look(
            store_id=self._store_id,
            usage=usage,
            held=self._held,
            stages=newest(stages),
            codes=dict(self._asking.codes),
            rates=tuple(self._rates),
            disk_trouble=self._trouble,
        )

    def _count(self, staged: Staged) -> None:
        fetched = staged.bytes_by_source.get("origin", 0)
        if fetched > 0 and staged.seconds > 0:
            self._rates.append(fetched / staged.seconds)

    async def _act(self, plan: Plan, look: Look) -> None:
        whole = frozenset(artifact for artifact, state in look.held.items() if state == "staged")
        seen = {
            artifact: SeenStage(
                stage.id,
                stage.wish.priority,
                stage.has_ended,
                failed_at=stage.ended_at if stage.state is agent.State.FAILED and not stage.is_taken_back else None,
                listeners=stage.feed.readers,
            )
            for artifact, stage in look.stages.items()
            if isinstance(stage.wish.ref, ArtifactRef)
        }
        for action in decide(plan, whole, seen, planned_at=self._planned_at, now=time.time()):
            try:
                if isinstance(action, Begin):
                    await self._service.begin(StageRequest(action.artifact, priority=WORDS[int(action.priority)], keep=True))
                else:
                    self._service.take_back(action.stage)
            except NotFound:
                continue  # it ended meanwhile
            except PrestageError as exc:
                log("plan_step_failed", level=logging.WARNING, fields={"artifact": action.artifact, "message": exc.message})

    async def _say(self, api: Api, look: Look) -> None:
        if not self._has_object:
            return
        now = datetime.datetime.now(datetime.UTC)
        status = status_of(
            self.policy.plan,
            look,
            self._written.status,
            now,
            is_current=self._is_current,
            is_beside_images=self._settings.is_beside_images,
        )
        if due_in_s(self._written, time.monotonic(), is_news=is_news(status, self._written)) > 0:
            return
        try:
            await self._write(api, status)
        except Missing:
            self._has_object = False
        except PrestageError as exc:
            log("status_not_written", level=logging.WARNING, fields={"kind": exc.kind, "message": exc.message})
            self._written = self._written.failed(time.monotonic())
        else:
            self._written = Written(status, time.monotonic())
            self._known_s = time.monotonic() if self._known_s is None else self._known_s

    async def _write(self, api: Api, status: NodeCacheStatus) -> None:
        body: Object = {"metadata": {"name": self._settings.node}, "status": msgspec.to_builtins(status)}
        await api.apply(NODE_CACHES, body, manager=MANAGER, force=True, subresource="status")
