"""What is being staged, for whom, and what is tried again.

    queued -> running -> done
       ^         |----> failed       whoever waits is told; a kept one that may pass is tried again (waiting)
       |         |----> paused       its pieces are journaled; goes on where it was
       +-- waiting <-- running

A stage that somebody waits for ends early when the last one has left; a kept one goes on for nobody, over restarts too. Two who
ask for the same files of the same ref are one stage; the more urgent one's priority counts.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.feed import Feed, Subscription
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.slots import Slots
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Bug, Busy, Full, NotFound, PrestageError, Unavailable
from prestage.cacher.origins.ports import Origin, Selection
from prestage.cacher.refs import ArtifactRef, HttpRef, Ref, parse_wanted, text_of
from prestage.cacher.staging import Staged, Stager, Wish
from prestage.cacher.staging.events import Event, Events, done, error
from prestage.cacher.store.wishes import KeptWish, Wishes
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import Cancelled

_T = TypeVar("_T")
RETRY_BASE_S = 5.0
RETRY_CAP_S = 300.0
ROOM_CAP_S = 15.0
"""The same where a pod waits for room: nobody tells when others make some, and a look costs little."""
ORPHAN_S = 60.0
"""After a restart, who waited for a stage that is not kept has so long to ask again."""
REMEMBERED = 100
"""Ended stages that `GET /v1/stages` still shows."""


class State(StrEnum):
    """See the module."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Stage:
    """One wish and how it goes. Touched on the loop only, but for `cancel`."""

    id: str
    wish: Wish
    feed: Feed
    is_kept: bool
    state: State = State.QUEUED
    since: float = field(default_factory=time.time)
    ended_at: float = 0.0
    """Seconds since the epoch; 0: it has not."""
    tries: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    is_paused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is paused, resumed or taken back: whoever drives it looks again."""
    is_taken_back: bool = False
    asked_to_keep: int = 0
    """By so many whose wish is on its way to the disk."""
    outcome: Staged | PrestageError | None = None
    """How it ended, or why it is tried again."""

    @property
    def is_to_stay(self) -> bool:
        """Kept, or about to be."""
        return self.is_kept or self.asked_to_keep > 0

    @property
    def has_ended(self) -> bool:
        """Done, failed or taken back."""
        return self.state in (State.DONE, State.FAILED)

    @property
    def artifact(self) -> ArtifactId | None:
        """Once it is resolved."""
        if isinstance(self.wish.ref, ArtifactRef):
            return self.wish.ref.artifact
        resolved = self.feed.latest("resolved")
        return ArtifactId(str(resolved["artifact"])) if resolved is not None else None

    def poke(self) -> None:
        """Make whoever drives it look again; a running transfer ends."""
        self.cancel.set()
        self.changed.set()


class Stages:
    """All stages of one agent. On the loop; its tasks are the group's."""

    def __init__(
        self,
        stager: Stager,
        open_origin: Callable[[Ref, threading.Event], Origin],
        wishes: Wishes,
        config: AgentConfig,
        *,
        group: asyncio.TaskGroup,
        rng: random.Random | None = None,
    ) -> None:
        self._stager, self._open_origin, self._wishes = stager, open_origin, wishes
        self._slots = Slots(config.stages_max, most_waiting=config.waiting_stages_max)
        threads = config.stages_max + config.waiting_stages_max
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="prestage-stage")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="prestage-wishes")
        self._active: dict[str, Stage] = {}
        self._ended: deque[Stage] = deque(maxlen=REMEMBERED)
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._is_draining = False
        self.are_paused = wishes.are_paused
        self.on_end: Callable[[Stage], None] = lambda stage: None
        """Told of every stage that ended."""

    async def start(self) -> None:
        """Go on with what was asked before the last restart."""
        for kept in await self._on_disk(lambda: list(self._wishes.all())):
            self._resume_kept(kept)

    def close(self) -> None:
        """After `drain`: end the threads that are idle."""
        self._threads.shutdown(wait=False)
        self._disk.shutdown(wait=True)

    async def _on_disk(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)

    def _resume_kept(self, kept: KeptWish) -> None:
        try:
            wish = Wish(parse_wanted(kept.ref), Selection(kept.include, kept.exclude), Priority(kept.priority))
        except (PrestageError, ValueError) as exc:
            log("wish_dropped", fields={"ref": kept.ref, "why": str(exc)})
            return
        if kept.id not in self._active:
            log("stage_resumed", fields={"ref": kept.ref, "paused": kept.is_paused})
            stage = self._begin(kept.id, wish, is_kept=kept.is_kept, is_paused=kept.is_paused)
            if not kept.is_kept:
                asyncio.get_running_loop().call_later(ORPHAN_S, self._take_back_unless_wanted, stage)

    def _begin(self, name: str, wish: Wish, *, is_kept: bool, is_paused: bool = False) -> Stage:
        stage = Stage(name, wish, Feed(asyncio.get_running_loop()), is_kept, is_paused=is_paused)
        self._active[name] = stage
        task = self._group.create_task(self._drive(stage), name=f"stage {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stage

    # -- what others ask for

    async def ask(self, wish: Wish, *, keep: bool) -> Stage:
        """Begin to stage, or join who does. `keep`: go on when nobody waits any more, over restarts too.

        Raises:
            Busy: the agent is ending.
            PrestageError: it cannot be kept: the disk is full or failed.
        """
        if self._is_draining:
            raise Busy("the agent is shutting down", hint="ask again in a moment: its successor goes on where it was")
        name = _kept(wish).id
        stage = self._active.get(name)
        if stage is None or stage.is_taken_back:
            stage = self._begin(name, wish, is_kept=False)
        else:
            self._urge(stage, wish.priority)
        stage.asked_to_keep += keep
        try:
            await self._remember(stage)
            stage.is_kept = stage.is_kept or keep
        except PrestageError as exc:
            if keep:
                raise
            log("wish_not_kept", fields={"ref": wish.ref.name, "message": exc.message})
        finally:
            stage.asked_to_keep -= keep
            if keep:
                self._take_back_unless_wanted(stage)
        return stage

    def _urge(self, stage: Stage, priority: Priority) -> None:
        if priority < stage.wish.priority:
            stage.wish = replace(stage.wish, priority=priority)
            self._urge_run(stage)
            if stage.state is not State.RUNNING:
                stage.changed.set()

    def _urge_run(self, stage: Stage) -> None:
        if (artifact := stage.artifact) is not None:
            self._stager.urge(artifact, stage.wish.priority)

    def subscribe(self, stage: Stage) -> Subscription:
        """Hear how it goes. Who closes it last takes back a stage that is not kept."""

        return stage.feed.subscribe(lambda: self._take_back_unless_wanted(stage))

    def _take_back_unless_wanted(self, stage: Stage) -> None:
        if not stage.is_to_stay and not stage.feed.readers and not stage.has_ended and not self._is_draining:
            self.take_back(stage)

    def get(self, name: str) -> Stage:
        """An active or recently ended stage.

        Raises:
            NotFound: none of that id.
        """
        if (stage := self._active.get(name)) is not None:
            return stage
        for ended in reversed(self._ended):
            if ended.id == name:
                return ended
        raise NotFound(f"there is no stage {name!r}", hint="GET /v1/stages shows what there is")

    def all(self) -> list[Stage]:
        """Active ones, then those that ended lately."""
        return [*self._active.values(), *reversed(self._ended)]

    def take_back(self, stage: Stage) -> None:
        """End it; what was fetched stays for another time."""
        stage.is_taken_back = True
        stage.poke()

    async def pause(self, stage: Stage) -> None:
        """Stand still until resumed, over restarts too."""
        stage.is_paused = True
        stage.poke()
        await self._remember(stage)

    async def resume(self, stage: Stage) -> None:
        """Go on where it was."""
        stage.is_paused = False
        stage.changed.set()
        await self._remember(stage)

    async def pause_all(self) -> None:
        """Everything stands still, what is asked later too, but for waiting pods."""
        self.are_paused = True
        await self._on_disk(self._wishes.pause)
        for stage in self._active.values():
            if self._stands(stage):
                stage.poke()

    async def resume_all(self) -> None:
        """Go on, but for what was paused by itself."""
        self.are_paused = False
        await self._on_disk(self._wishes.resume)
        for stage in self._active.values():
            stage.changed.set()

    async def drain(self, timeout_s: float) -> bool:
        """Cut off every transfer and wait until what it received is journaled. The wishes stay on disk: a restart goes on.
        False: some thread did not end in time."""
        self._is_draining = True
        for stage in self._active.values():
            stage.poke()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return not self._tasks

    # -- how it goes

    def _stands(self, stage: Stage) -> bool:
        return stage.is_paused or (self.are_paused and stage.wish.priority is not Priority.WAITING_POD)

    async def _drive(self, stage: Stage) -> None:
        while True:
            if stage.is_taken_back:
                self._end(stage, Unavailable("the stage was taken back", hint="what was fetched is kept: ask again to go on"))
                break
            if self._is_draining:
                stage.feed.publish(error(Unavailable("the agent is shutting down", hint="ask again: its successor goes on")))
                return
            stage.changed.clear()
            stage.cancel.clear()
            if self._stands(stage):
                stage.state = State.PAUSED
                stage.feed.publish({"event": "paused"})
                await stage.changed.wait()
                continue
            stage.state = State.QUEUED
            outcome = await self._try(stage)
            if outcome is None:
                continue
            if isinstance(outcome, PrestageError) and stage.is_to_stay and _may_pass(outcome):
                await self._wait_for_another_try(stage, outcome)
                continue
            self._end(stage, outcome)
            break
        await self._forget(stage)

    async def _try(self, stage: Stage) -> Staged | PrestageError | None:
        """None: it was asked to stop; why is in its flags."""
        if not await self._got_slot(stage):
            return None
        try:
            if stage.cancel.is_set():
                return None
            stage.state = State.RUNNING
            stage.outcome = None
            stage.tries += 1
            stage.feed.forget_progress()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._stage, stage, loop)
        except Cancelled:
            return None
        except PrestageError as exc:
            return _alone(exc)
        except Exception as exc:  # noqa: BLE001 - the supervisor's edge: one stage's bug must not end the others
            log("stage_bug", exc=exc, fields={"ref": stage.wish.ref.name})
            return Bug(f"staging {stage.wish.ref.name} failed: {type(exc).__name__}: {exc}", hint="please report it")
        finally:
            self._slots.give_back()

    async def _got_slot(self, stage: Stage) -> bool:
        """False: something about it changed before it was its turn."""
        turn = asyncio.ensure_future(self._slots.take(stage.wish.priority))
        change = asyncio.ensure_future(stage.changed.wait())
        try:
            await asyncio.wait((turn, change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            is_mine = not turn.cancel() and not turn.cancelled()
        if not is_mine:
            await asyncio.wait((turn,))
        return is_mine

    def _stage(self, stage: Stage, loop: asyncio.AbstractEventLoop) -> Staged:
        """In a thread."""
        wish = stage.wish

        def told(event: Event) -> None:
            stage.feed.publish_from_thread(event)
            if event["event"] == "resolved":  # who urged it before it had a run was heard by nobody
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._urge_run, stage)

        return self._stager.stage(wish, self._open_origin(wish.ref, stage.cancel), Events(told), stage.cancel)

    async def _wait_for_another_try(self, stage: Stage, why: PrestageError) -> None:
        stage.state = State.WAITING
        stage.outcome = why
        cap_s = ROOM_CAP_S if isinstance(why, Full) and stage.wish.priority is Priority.WAITING_POD else RETRY_CAP_S
        delay_s = self._rng.uniform(0.5, 1.0) * min(cap_s, RETRY_BASE_S * 2.0 ** min(stage.tries - 1, 10))
        stage.feed.publish({"event": "trouble", "kind": why.kind, "message": f"{why}; again in {delay_s:.0f} s"})
        log(
            "stage_waits",
            fields={"ref": stage.wish.ref.name, "kind": why.kind, "message": why.message, "retry_in_s": round(delay_s, 1)},
        )
        try:
            async with asyncio.timeout(delay_s):
                await stage.changed.wait()
        except TimeoutError:
            return

    def _end(self, stage: Stage, outcome: Staged | PrestageError) -> None:
        stage.outcome = outcome
        stage.ended_at = time.time()
        stage.state = State.DONE if isinstance(outcome, Staged) else State.FAILED
        stage.feed.publish(done(outcome) if isinstance(outcome, Staged) else error(outcome))
        if self._active.get(stage.id) is stage:
            del self._active[stage.id]
        self._ended.append(stage)
        self.on_end(stage)

    # -- what survives a restart

    async def _remember(self, stage: Stage) -> None:
        """Keep its wish on disk while it is active. A URL's query may be a signature: such a wish does not outlive us."""
        if isinstance(stage.wish.ref, HttpRef) and stage.wish.ref.query:
            return
        if not stage.has_ended:
            kept = replace(_kept(stage.wish), is_paused=stage.is_paused, is_kept=stage.is_to_stay)
            await self._on_disk(lambda: self._wishes.keep(kept))
        if stage.has_ended:
            await self._forget(stage)

    async def _forget(self, stage: Stage) -> None:
        if stage.id in self._active:
            return
        try:
            await self._on_disk(lambda: self._wishes.drop(_kept(stage.wish)))
        except PrestageError as exc:  # the next start stages it again, and finds it done
            log("wish_not_dropped", fields={"ref": stage.wish.ref.name, "message": exc.message})


def _kept(wish: Wish) -> KeptWish:
    ref = text_of(wish.ref, with_query=False)
    return KeptWish(ref, wish.selection.include, wish.selection.exclude, int(wish.priority))


def _alone(exc: PrestageError) -> PrestageError:
    """Without the frames it came through: an ended stage is remembered, what it worked with (a record of every piece) is not."""
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)


def _may_pass(outcome: PrestageError) -> bool:
    """Worth another try without anybody's doing."""
    return isinstance(outcome, (Unavailable, Busy, Full))
