"""What each call does, without HTTP: the store's blocking calls in a bounded pool, stages on the loop."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import TypeVar

from prestage.cacher.agent.bringing import Bringing
from prestage.cacher.agent.callers import Caller, Role, check, role_of
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.decisions import DecisionLog, Keeper
from prestage.cacher.agent.explaining import explain
from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.healing import Healer
from prestage.cacher.agent.history import History, Tally
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import (
    PRIORITIES,
    AdoptRequest,
    Artifact,
    Evicted,
    Explained,
    Held,
    HoldRequest,
    ImportRequest,
    NamedRequest,
    Reported,
    ReportRequest,
    Resolved,
    StageRequest,
    StageView,
    Status,
    Unpinned,
    VerifyRequest,
)
from prestage.cacher.agent.mounts import Mounts
from prestage.cacher.agent.shown import artifact_view, stage_view, usage_view
from prestage.cacher.agent.stages import Stage, Stages, State
from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import Bug, Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.net.config import VERSION
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import ArtifactRef, parse_wanted
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.staging import Staged, Wish
from prestage.cacher.staging.events import Event, error
from prestage.cacher.store.budget import Candidate, Usage
from prestage.cacher.store.holds import HoldId
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import Cancelled

_T = TypeVar("_T")
Tell = Callable[[Event], None]
READER_TTL_S = 86400.0
"""Longest hold of somebody who is no admin: it keeps bytes from being evicted."""
HEARTBEAT_S = 5.0
"""A stream that has nothing to say says so this often."""
_HOLD = re.compile(r"(pin|ttl|run)-[0-9a-f]{16}")
_LONG_MAX = 4
"""Verifies, adoptions and imports at once; more wait for their turn."""
_KNOWN_MAX = 10_000
"""Refs, with patterns, that are remembered as resolved: a few MB."""
_TOUCH_S = 60.0
"""A resolved artifact's last use is written this often at most."""


class Service:
    """The agent's calls. On the loop."""

    def __init__(self, store: Store, stages: Stages, config: AgentConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._stages, self._config = store, stages, config
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="prestage-store")
        self._long = ThreadPoolExecutor(_LONG_MAX, thread_name_prefix="prestage-long")
        self._loop = loop
        self._known: dict[tuple[str, tuple[str, ...], tuple[str, ...]], tuple[Resolved, float]] = {}
        """Refs that were resolved, and when their use was last written; dropped whole at every change of the store."""
        self._started_at = time.time()
        decisions = DecisionLog(store.root)
        self._keeper = Keeper(decisions)
        self.history = History(Feed(loop), decisions.load(), self._keeper)
        self.tally = Tally()
        self.healer = Healer(store, stages, self.history, self.tally, self.blocking)
        self.is_ready = True
        self._ending = threading.Event()
        self._generation = 0
        self.metrics_address: str | None = None
        self.serving: Serving | None = None
        """Blobs for peers, where that is asked for."""
        self.bringing: Bringing
        """Set by the composition root, as what follows."""
        self.on_change: Callable[[], None] = lambda: None
        """Told of every change of the store; on the loop."""
        self.planned: Callable[[ArtifactId], str | None] = lambda artifact: None
        """What somebody above says of it, as a sentence."""
        self.mounts = Mounts(store, self.history, self.blocking)
        stages.on_end = self._stage_ended
        store.room.on_evict = self._evicted

    def end(self) -> None:
        """Not ready any more; calls that read for long stop."""
        self.is_ready = False
        self._ending.set()

    def close(self) -> None:
        """Wait for the store's calls to end."""
        for threads in (self._long, self._threads):
            threads.shutdown(wait=True, cancel_futures=True)
        self._keeper.close()

    async def blocking(self, call: Callable[[], _T]) -> _T:
        """Run a call of the store in the pool."""
        return await self._loop.run_in_executor(self._threads, call)

    async def _lasting(self, call: Callable[[], _T]) -> _T:
        """Run what may take hours in threads of its own: whoever asks a quick question meanwhile is answered."""
        return await self._loop.run_in_executor(self._long, call)

    def changed(self) -> None:
        """The store is not what it was: nothing that was looked up counts any more."""
        self._known.clear()
        self._generation += 1
        self.on_change()

    def _stage_ended(self, stage: Stage) -> None:
        self.changed()
        outcome, ref = stage.outcome, stage.wish.ref.name
        self.tally.stage(outcome)
        if isinstance(outcome, Staged):
            fetched = sum(n for source, n in outcome.bytes_by_source.items() if source not in ("store", "journal"))
            if self.is_ready:
                self.mounts.staged(outcome.artifact)
            self.history.add(
                "staged", artifact=outcome.artifact, ref=ref, seconds=round(outcome.seconds, 3), fetched_bytes=fetched
            )
        elif isinstance(outcome, PrestageError):
            self.history.add("stage_failed", artifact=stage.artifact, ref=ref, kind=outcome.kind, message=outcome.message)

    def _evicted(self, candidate: Candidate, size_bytes: int, why: str) -> None:
        """Called in a thread of the store."""
        artifact = candidate.key if candidate.key.startswith("sha256:") else None

        def tell() -> None:
            self.changed()
            self.tally.evicted_bytes += size_bytes
            self.history.add("evicted", artifact=artifact, ref=None, name=candidate.name, bytes=size_bytes, why=why)

        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(tell)

    # -- looking

    async def usage(self) -> Usage:
        """The disk."""
        return await self.blocking(self._store.room.usage)

    @property
    def is_idle(self) -> bool:
        """Nothing is being staged."""
        return not any(stage.state in (State.QUEUED, State.RUNNING) for stage in self._stages.all())

    def all_stages(self) -> list[Stage]:
        """Active ones, then those that ended lately."""
        return self._stages.all()

    async def status(self) -> Status:
        """The agent at a glance."""
        usage, rows = await self.blocking(lambda: (self._store.room.usage(), self._store.count()))
        return Status(
            version=VERSION,
            pid=os.getpid(),
            root=str(self._store.root),
            started_at=self._started_at,
            ready=self.is_ready,
            paused=self._stages.are_paused,
            usage=usage_view(usage),
            artifacts=rows,
            stages=[stage_view(stage) for stage in self._stages.all() if not stage.has_ended],
            warnings=list(self._store.warnings),
            metrics=self.metrics_address,
            serving_port=self.serving.port if self.serving is not None else None,
        )

    async def artifacts(self) -> list[Artifact]:
        """Everything the store knows of, last used first."""
        rows = await self.blocking(self._store.list)
        return [artifact_view(row) for row in sorted(rows, key=lambda row: -row.last_used)]

    async def stages(self) -> list[StageView]:
        """Active stages, then those that ended lately."""
        return [stage_view(stage) for stage in self._stages.all()]

    async def resolve(self, named: NamedRequest) -> Resolved:
        """Where it lies. Counts as a use."""
        key = (named.ref, named.include, named.exclude)
        known = self._known.get(key)
        now = time.monotonic()
        if known is not None and now - known[1] < _TOUCH_S:
            return known[0]
        generation = self._generation
        resolved = await self.blocking(lambda: self._resolve(named))
        if generation == self._generation:  # else what was found may be gone by now
            if len(self._known) >= _KNOWN_MAX:  # an artifact goes by any patterns, and a store can stay as it is for months
                self._known.clear()
            self._known[key] = (resolved, now)
        return resolved

    def _resolve(self, named: NamedRequest) -> Resolved:
        artifact = self._lookup(named)
        return Resolved(artifact, str(self._store.path(artifact)))

    def _lookup(self, named: NamedRequest | HoldRequest) -> ArtifactId:
        selection = Selection(named.include, named.exclude) if named.include or named.exclude else None
        return self._store.lookup(named.ref, selection)

    async def explain(self, named: NamedRequest) -> Explained:
        """Why it is here, or is not."""
        try:
            artifact: ArtifactId | None = await self.blocking(lambda: self._lookup(named))
        except NotFound:
            artifact = None
        stage = next((s for s in self._stages.all() if named.ref in (s.wish.ref.name, s.artifact)), None)
        if artifact is None and stage is not None:
            artifact = stage.artifact
        ref = None if named.ref.startswith("sha256:") else named.ref
        view = stage_view(stage) if stage is not None else None
        once = artifact or (named.ref if ref is None else self.history.artifact_of(ref))
        history = self.history.about(once, ref)
        planned = self.planned(ArtifactId(once)) if once is not None else None
        return await self.blocking(lambda: explain(self._store, artifact, ref, view, history, planned=planned))

    # -- staging

    async def begin(self, request: StageRequest) -> Stage:
        """Begin, or join."""
        selection = Selection(request.include, request.exclude)
        ref = parse_wanted(request.ref)
        if isinstance(ref, ArtifactRef) and (request.include or request.exclude):
            raise Misconfigured("an artifact is staged whole", hint="leave include and exclude out, or name a ref")
        wish = Wish(ref, selection, Priority(PRIORITIES[request.priority]))
        return await self._stages.ask(wish, keep=request.keep)

    async def follow(self, stage: Stage) -> AsyncGenerator[Event]:
        """How it goes, to its end. Who stops reading last takes back a stage that is not kept."""
        subscription = self._stages.subscribe(stage)
        try:
            yield {"event": "stage", "id": stage.id, "state": stage.state}
            async with aclosing(subscription.read(heartbeat_s=HEARTBEAT_S)) as events:
                async for event in events:
                    yield event
        finally:
            subscription.close()

    async def events(self) -> AsyncGenerator[Event]:
        """Everything the agent does, as it does it."""
        subscription = self.history.feed.subscribe()
        try:
            async with aclosing(subscription.read(heartbeat_s=HEARTBEAT_S)) as events:
                async for event in events:
                    yield event
        finally:
            subscription.close()

    def stage(self, name: str) -> Stage:
        """By its id."""
        return self._stages.get(name)

    async def pause(self, name: str | None) -> None:
        """One stage, or everything."""
        await (self._stages.pause_all() if name is None else self._stages.pause(self.stage(name)))
        self.history.add("paused", ref=None if name is None else self.stage(name).wish.ref.name)

    async def resume(self, name: str | None) -> None:
        """One stage, or everything."""
        await (self._stages.resume_all() if name is None else self._stages.resume(self.stage(name)))
        self.history.add("resumed", ref=None if name is None else self.stage(name).wish.ref.name)

    def take_back(self, name: str) -> None:
        """End one stage; what was fetched stays."""
        self._stages.take_back(self.stage(name))

    # -- keeping and letting go

    async def hold(self, request: HoldRequest, caller: Caller) -> Held:
        """Keep it; a run lasts as long as `caller`'s process. Pins, which never end, are the admins'."""
        if request.kind == "pin":
            check(caller, self._config, Role.ADMIN)
        if request.kind == "ttl" and request.ttl_s > READER_TTL_S and role_of(caller, self._config) < Role.ADMIN:
            raise Denied(f"user {caller.uid} may hold for a day at most", hint="ask for a ttl of 86400 s or less, or for a run")

        def make() -> Held:
            artifact = self._lookup(request)
            expires_at = time.time() + request.ttl_s if request.kind == "ttl" else None
            pid = caller.pid if request.kind == "run" else None
            note = f"{request.note} {_signature(caller)}".strip()
            hold = self._store.hold(artifact, kind=request.kind, expires_at=expires_at, pid=pid, note=note)
            try:
                return Held(artifact, hold, str(self._store.path(artifact)))
            except PrestageError:
                self._store.drop_hold(artifact, hold)
                raise

        held = await self.blocking(make)
        self.history.add("held", artifact=held.artifact, kind=request.kind, hold=held.hold, uid=caller.uid)
        return held

    async def drop_hold(self, artifact: str, hold: str, caller: Caller) -> None:
        """Let go of one hold; a reader only of his own. Idempotent."""
        if _HOLD.fullmatch(hold) is None:
            raise NotFound(f"{hold!r} is not a hold", hint="GET /v1/artifacts shows them")
        name = artifact_id(artifact)
        if role_of(caller, self._config) < Role.ADMIN:
            found = await self.blocking(lambda: self._store.holds(name))
            document = found.get(HoldId(hold))
            if document is not None and not str(document.get("note")).endswith(_signature(caller)):
                raise Denied(
                    f"{hold} is not a hold of user {caller.uid}",
                    hint=f"ask whoever made it, or start the agent with --admin-uid {caller.uid}",
                )
        await self.blocking(lambda: self._store.drop_hold(name, HoldId(hold)))
        self.history.add("hold_dropped", artifact=artifact, hold=hold)

    async def unpin(self, named: NamedRequest) -> Unpinned:
        """Take every pin off."""

        def take_off() -> Unpinned:
            artifact = self._lookup(named)
            return Unpinned(artifact, self._store.unpin(artifact))

        return await self.blocking(take_off)

    async def evict(self, named: NamedRequest) -> Evicted:
        """Let go of it by hand."""

        def let_go() -> Evicted:
            artifact = self._lookup(named)
            return Evicted(artifact, self._store.evict(artifact))

        try:
            evicted = await self.blocking(let_go)
        finally:
            self.changed()
        self.tally.evicted_bytes += evicted.freed_bytes
        self.history.add("evicted", artifact=evicted.artifact, ref=None, bytes=evicted.freed_bytes, why="by hand")
        return evicted

    async def report(self, request: ReportRequest) -> Reported:
        """A reader says that a chunk has wrong bytes."""
        reported = await self.healer.report(request)
        self.changed()
        return reported

    async def verify(self, request: VerifyRequest) -> AsyncGenerator[Event]:
        """Read everything again; progress, then what was found."""
        named = NamedRequest(request.ref, request.include, request.exclude) if request.ref else None

        async def work(tell: Tell) -> Event:
            artifact = await self.blocking(lambda: self._lookup(named)) if named is not None else None
            report = await self._lasting(lambda: self._store.verify(artifact, on_progress=_progress(tell)))
            self.tally.damaged += len(report.bad)
            for bad in report.bad:
                for name in bad.artifacts:
                    self.history.add("damaged", artifact=name, blob=bad.blob, why=bad.why)
            await self.healer.heal_what_is_held()
            return {"event": "done", **report.to_json()}

        async with aclosing(self._streamed(work)) as events:
            async for event in events:
                yield event

    async def adopt(self, request: AdoptRequest) -> AsyncGenerator[Event]:
        """What lies on this node becomes an artifact."""

        async def work(tell: Tell) -> Event:
            return await self._lasting(lambda: self.bringing.adopt(request, tell))

        async with aclosing(self._streamed(work)) as events:
            async for event in events:
                yield event

    async def import_archive(self, request: ImportRequest) -> AsyncGenerator[Event]:
        """An archive becomes an artifact."""

        async def work(tell: Tell) -> Event:
            return await self._lasting(lambda: self.bringing.import_archive(request, tell))

        async with aclosing(self._streamed(work)) as events:
            async for event in events:
                yield event

    async def _streamed(self, work: Callable[[Tell], Awaitable[Event]]) -> AsyncGenerator[Event]:
        """What `work` tells from its threads, then its last event. When nobody reads any more, or the agent ends, the next thing
        that it tells raises Cancelled."""
        feed = Feed(self._loop)
        subscription = feed.subscribe()
        has_left = threading.Event()

        def tell(event: Event) -> None:
            if has_left.is_set() or self._ending.is_set():
                raise Cancelled
            feed.publish_from_thread(event)

        async def run() -> None:
            try:
                last = await work(tell)
            except PrestageError as exc:
                last = error(exc)
            except Cancelled:
                last = error(Unavailable("the agent is shutting down", hint="ask again: its successor does it"))
            except Exception as exc:  # noqa: BLE001 - the edge of a task: whoever listens must hear how it ended
                log("work_bug", exc=exc)
                last = error(Bug(f"{type(exc).__name__}: {exc}", hint="please report it"))
            self.changed()
            feed.publish(last)

        task = asyncio.create_task(run())
        try:
            async with aclosing(subscription.read(heartbeat_s=HEARTBEAT_S)) as events:
                async for event in events:
                    yield event
        finally:
            has_left.set()
            await task


def _progress(tell: Tell) -> Callable[[int, int], None]:
    return lambda done_bytes, total_bytes: tell({"event": "progress", "bytes": done_bytes, "total": total_bytes})


def _signature(caller: Caller) -> str:
    """What a hold's note ends with: whose it is."""
    return f"(uid {caller.uid})"
