"""Writes the Warm condition of pods, and the Events beside it. Under the planner's leadership, beside it.

    a change     the pods that it concerns, 50 ms later
    time         all that are not settled (bound, warm, told), every 5 s; those that are not resolved every second

Throttled: a write where status or reason changed, and once more in a pod's life where only the words did. What passes
(NotResolved, Staging) is not told in a pod's first 3 s. What is sent is what is true when its turn comes: a slow API server is
told less. In an ordinary life: Staging, Warm, an Event each, and the gate: five writes; three where it takes less than 3 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
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
from prestage.kube.mirror import Key, key_of
from prestage.kube.ports import Api, Object, PatchType, name_of, namespace_of, uid_of
from prestage.kube.resources import PODS

_log = logging.getLogger("prestage")
_PAUSE_S: Final = 0.05
_LOOK_S: Final = 5.0
_TICK_S: Final = 0.25
_UNRESOLVED_S: Final = 1.0
"""Why the broker refused is in no mirror."""
_AT_ONCE: Final = 8
"""Words leave the API server room for gates and plans."""
_IN_A_ROW: Final = 100
"""Pods looked at before others of this loop have their turn: gates and plans are urgent, words are not."""
_AGAIN_S: Final = 10.0
"""After a write that the API server did not take."""
GRACE_S: Final = 3.0
"""What passes is not worth a write of its own before that."""
REWORD_S: Final = 30.0
_PASSING: Final = (Reason.NOT_RESOLVED, Reason.STAGING)
_UNHELPFUL: Final = (GateReason.TIMED_OUT, GateReason.TOO_LATE, GateReason.CANNOT_BE_WARM, GateReason.IMAGE_PULLED)
_TROUBLE: Final = (Reason.FAILED, Reason.DENIED, Reason.MISCONFIGURED)


@dataclass(slots=True)
class _Life:
    """What one pod was told."""

    told: Told
    at_s: float
    reworded: bool = False
    late: bool = False
    """It was said that it is."""


_Whom = tuple[Key, str]
"""A pod, and its UID."""


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
    _later: dict[Key, float] = field(default_factory=dict)
    """Pods that are looked at again then, whatever happens."""
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """For ever. A slow API server holds up what is sent, not what is decided."""
        touched = self.world.touched()
        touched.add(None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._by_time(group))
            while True:
                await touched.wait()
                await asyncio.sleep(_PAUSE_S)
                since_s, pods = touched.since_s, touched.take()
                if self.world.whole and (news := await self._news(pods, since_s)):
                    group.create_task(self._tell_all(news))

    async def _by_time(self, group: asyncio.TaskGroup) -> None:
        looked_s = self.world.clock()
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = self.world.clock()
            due: Set[Key] | None = {key for key, at_s in self._later.items() if at_s <= now_s}
            if now_s - looked_s >= _LOOK_S:
                looked_s, due = now_s, None
            if self.world.whole and (due is None or due) and (news := await self._news(due, None)):
                group.create_task(self._tell_all(news))

    async def look(self) -> None:
        """At every pod that names models, once."""
        await self._tell_all(await self._news(None, None))

    async def _news(self, keys: Set[Key] | None, since_s: float | None) -> list[_Whom]:
        """Who is to be told something; None: of all. `since_s` (time.monotonic): when what it answers was read."""
        if keys is None:
            self._forget()
        memory, news = Memory(), list[_Whom]()
        for number, key in enumerate(list(self.world.asking if keys is None else keys), 1):
            if number % _IN_A_ROW == 0:
                await asyncio.sleep(0)
            self._later.pop(key, None)
            if (pod := self.world.pod(key)) is None:
                continue
            if uid_of(pod) in self._telling:
                self._later[key] = self.world.clock() + _TICK_S
            elif self._due(pod, memory) is not None:
                self._telling.add(uid_of(pod))
                news.append((key, uid_of(pod)))
                if since_s is not None:
                    self.reacted(time.monotonic() - since_s)
        return news

    def _due(self, pod: Object, memory: Memory | None = None) -> Told | None:
        """What it is to be told now."""
        uid, at_s = uid_of(pod), self.world.clock()
        life = self._lives.get(uid)
        if is_over(pod) or (life is not None and _is_settled(pod, life)):
            return None
        now = told(pod, self.world, self.sources, memory)
        if now is None or self._not_before_s.get(uid, 0.0) > at_s:
            return None
        if now.reason is Reason.NOT_RESOLVED:
            self._later[key_of(pod)] = at_s + _UNRESOLVED_S
        elif life is None and now.reason in _PASSING:
            self._later[key_of(pod)] = at_s + max(_TICK_S, GRACE_S - age_s(pod, self.world.now()))
        return now if self._is_news(pod, now, life) else None

    def _forget(self) -> None:
        """Who is gone."""
        there = {uid_of(pod) for pod in map(self.world.pod, self.world.asking) if pod is not None}
        for known in (self._not_before_s, self._lives):
            for uid in known.keys() - there:
                del known[uid]

    async def _tell_all(self, news: Sequence[_Whom]) -> None:
        async def one(key: Key, uid: str) -> None:
            try:
                async with self._at_once:
                    pod = self.world.pod(key)
                    if pod is not None and uid_of(pod) == uid and (now := self._due(pod)) is not None:
                        await self._tell(pod, now, self._lives.get(uid))
            finally:
                self._telling.discard(uid)

        await asyncio.gather(*(one(*whom) for whom in news))

    def released(self, step: Step) -> None:
        """For gates.loop: a gate that did not help is told."""
        if step.verdict.reason in _UNHELPFUL:
            waits = "the kubelet pulls its images" if step.seen.situation.models_with_room else "its mount waits for the files"
            self._say(step.pod, "GateReleased", f"Not held back any longer ({step.verdict.reason}): {waits}", EventType.NORMAL)

    def _is_news(self, pod: Object, now: Told, life: _Life | None) -> bool:
        at_s = self.world.clock()
        if life is None:
            there = condition_of(pod)
            if (there.get("reason"), there.get("status")) == (str(now.reason), _status(now)):
                self._lives[uid_of(pod)] = _Life(now, at_s, reworded=True)  # another leader told it
                return False
            return now.reason not in _PASSING or age_s(pod, self.world.now()) >= GRACE_S
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
        if not reworded and now.reason is not Reason.NOT_RESOLVED:
            self._say(
                pod,
                str(now.reason),
                now.message,
                EventType.WARNING if now.reason in _TROUBLE else EventType.NORMAL,
                WARM_CONDITION,
            )
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

    def _say(self, pod: Object, reason: str, note: str, kind: EventType, topic: str = "") -> None:
        self.recorder.say(Said(Subject.of(PODS, pod), reason, note, "Stage", kind, topic))


def condition_of(pod: Object) -> Mapping[str, object]:
    """The Warm condition as it stands; empty where there is none."""
    return next((one for one in entries(part(pod, "status"), "conditions") if one.get("type") == WARM_CONDITION), {})


def _is_settled(pod: Object, life: _Life) -> bool:
    """Bound, warm, told."""
    return life.told.warm and bool(node_of(pod)) and node_of(pod) in life.told.message


def _status(now: Told) -> str:
    return "True" if now.warm else "False"
