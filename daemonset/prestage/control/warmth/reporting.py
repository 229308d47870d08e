"""Writes the Warm condition of pods, and the Events beside it. Under the planner's leadership, beside it.

Throttled: a write where status or reason changed; where only the words did, once more in a pod's life. What is settled (bound,
warm, told) is not looked at again. In an ordinary life: Staging, Warm, an Event each, and the gate: five writes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.annotations import WARM_CONDITION
from prestage.cacher.errors import PrestageError
from prestage.control.gates.decision import Reason as GateReason
from prestage.control.gates.loop import Step
from prestage.control.gates.world import World, age_s
from prestage.control.podspec import entries, is_over, node_of, part
from prestage.control.warmth.condition import Memory, Reason, Sources, Told, told
from prestage.kube.errors import Conflict, Missing
from prestage.kube.events import EventType, Recorder, Said, Subject
from prestage.kube.ports import Api, Object, PatchType, name_of, namespace_of, uid_of
from prestage.kube.resources import PODS

_log = logging.getLogger("prestage")
_PAUSE_S: Final = 0.25
_LOOK_S: Final = 5.0
_AT_ONCE: Final = 16
_IN_A_ROW: Final = 100
"""Pods looked at before others of this loop have their turn: gates and plans are urgent, words are not."""
_AGAIN_S: Final = 10.0
"""After a write that the API server did not take."""
GRACE_S: Final = 3.0
"""Resolving is not worth a write of its own before that."""
REWORD_S: Final = 30.0
_TROUBLE: Final = (Reason.FAILED, Reason.DENIED, Reason.MISCONFIGURED)


@dataclass(slots=True)
class _Life:
    """What one pod was told."""

    told: Told
    at_s: float
    reworded: bool = False
    late: bool = False
    """It was said that it is."""


_News = tuple[Object, Told, _Life | None]
"""A pod, what it is to be told, and what it was told."""


@dataclass(slots=True)
class Warmth:
    """`recorder` is run by whoever made it."""

    api: Api
    world: World
    recorder: Recorder
    sources: Sources = field(default_factory=Sources)
    reacted: Callable[[float], None] = lambda seconds: None
    """Told of each patch how many seconds after the change that it answers it is ready to be sent."""
    _not_before_s: dict[str, float] = field(default_factory=dict)
    _lives: dict[str, _Life] = field(default_factory=dict)
    _telling: set[str] = field(default_factory=set)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """For ever. A slow API server holds up what is sent, not what is decided."""
        woken = self.world.subscription()
        since_s = None
        async with asyncio.TaskGroup() as group:
            while True:
                if self.world.whole and (news := await self._news(since_s)):
                    group.create_task(self._tell_all(news))
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await woken.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(_PAUSE_S)
                since_s = woken.since_s if woken.is_set() else None
                woken.clear()

    async def look(self) -> None:
        """At every pod that names models, once."""
        await self._tell_all(await self._news(None))

    async def _news(self, since_s: float | None) -> list[_News]:
        """What is to be written. `since_s` (time.monotonic): when what it answers was read."""
        seen, memory, news = set[str](), Memory(), list[_News]()
        for number, key in enumerate(list(self.world.asking), 1):
            if number % _IN_A_ROW == 0:
                await asyncio.sleep(0)
            pod = self.world.pod(key)
            if pod is None or is_over(pod):
                continue
            uid = uid_of(pod)
            seen.add(uid)
            life = self._lives.get(uid)
            if uid in self._telling or (life is not None and _is_settled(pod, life)):
                continue
            now = told(pod, self.world, self.sources, memory)
            is_soon = self._not_before_s.get(uid, 0.0) > self.world.clock()
            if now is not None and not is_soon and self._is_news(pod, now, life):
                news.append((pod, now, life))
        self._not_before_s = {uid: at_s for uid, at_s in self._not_before_s.items() if uid in seen}
        for uid in self._lives.keys() - seen:
            del self._lives[uid]
        self._telling.update(uid_of(pod) for pod, _, _ in news)
        if since_s is not None:
            for _ in news:
                self.reacted(time.monotonic() - since_s)
        return news

    async def _tell_all(self, news: Sequence[_News]) -> None:
        async def one(pod: Object, now: Told, life: _Life | None) -> None:
            try:
                async with self._at_once:
                    await self._tell(pod, now, life)
            finally:
                self._telling.discard(uid_of(pod))

        await asyncio.gather(*(one(*piece) for piece in news))

    def released(self, step: Step) -> None:
        """For gates.loop: a gate that did not help is told."""
        if step.verdict.reason in (GateReason.TIMED_OUT, GateReason.TOO_LATE, GateReason.CANNOT_BE_WARM):
            note = f"Not held back any longer ({step.verdict.reason}): its mount waits for the files"
            self._say(step.pod, "GateReleased", note, EventType.NORMAL)

    def _is_news(self, pod: Object, now: Told, life: _Life | None) -> bool:
        at_s = self.world.clock()
        if life is None:
            there = condition_of(pod)
            if (there.get("reason"), there.get("status")) == (str(now.reason), _status(now)):
                self._lives[uid_of(pod)] = _Life(now, at_s, reworded=True)  # another leader told it
                return False
            return now.reason is not Reason.NOT_RESOLVED or age_s(pod, self.world.now()) >= GRACE_S
        if now.reason is not life.told.reason:
            return True
        moved = now.warm and bool(node_of(pod)) and now.message != life.told.message
        if moved:
            life.told = now  # bound where it is warm, as was said: no write
            return False
        return now.message != life.told.message and not life.reworded and at_s - life.at_s >= REWORD_S

    async def _tell(self, pod: Object, now: Told, life: _Life | None) -> None:
        body = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [self._condition(pod, now)]}}
        try:
            await self.api.patch(
                PODS, name_of(pod), body, namespace=namespace_of(pod), subresource="status", type=PatchType.STRATEGIC
            )
        except (Missing, Conflict):
            return  # it is gone, or another of its name
        except PrestageError as exc:
            self._not_before_s[uid_of(pod)] = self.world.clock() + _AGAIN_S
            _log.warning(
                "condition_not_written", extra={"fields": {"pod": f"{namespace_of(pod)}/{name_of(pod)}", "why": str(exc)}}
            )
            return
        reworded = life is not None and life.told.reason is now.reason
        fresh = _Life(now, self.world.clock(), reworded, life.late if life else False)
        self._lives[uid_of(pod)] = fresh
        if not reworded:
            self._say(pod, str(now.reason), now.message, EventType.WARNING if now.reason in _TROUBLE else EventType.NORMAL)
        if now.late_s is not None and not fresh.late:
            fresh.late = True
            self._say(pod, "Late", f"Late by {now.late_s:.0f} s because {now.because}", EventType.WARNING)

    def _condition(self, pod: Object, now: Told) -> Mapping[str, object]:
        there, status = condition_of(pod), _status(now)
        moment = self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        since = there["lastTransitionTime"] if there.get("status") == status and there.get("lastTransitionTime") else moment
        return {
            "type": WARM_CONDITION,
            "status": status,
            "reason": str(now.reason),
            "message": now.message[:1024],
            "lastTransitionTime": since,
        }

    def _say(self, pod: Object, reason: str, note: str, kind: EventType) -> None:
        self.recorder.say(Said(Subject.of(PODS, pod), reason, note, "Stage", kind))


def condition_of(pod: Object) -> Mapping[str, object]:
    """The Warm condition as it stands; empty where there is none."""
    return next((one for one in entries(part(pod, "status"), "conditions") if one.get("type") == WARM_CONDITION), {})


def _is_settled(pod: Object, life: _Life) -> bool:
    """Bound, warm, told."""
    return life.told.warm and bool(node_of(pod)) and node_of(pod) in life.told.message


def _status(now: Told) -> str:
    return "True" if now.warm else "False"
