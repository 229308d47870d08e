"""Takes gates off: decides again on every change of pods, nodes, caches and the lease, and when a timeout comes.

    a change     the pods that it concerns (touched.py), 20 ms later
    time         all that are gated, at least once a second or as often as that takes an eighth of the time: timeouts, backlogs
                 that grew, room that was taken

    release    one JSON patch: our gate goes, the preference for warm nodes comes (affinity is frozen once the gates are gone)
    fail       status.phase Failed, reason NotWarmInTime: `prestage.dev/on-timeout: Fail`

Safe to run twice at once: each patch tests the pod's UID and that the gate is where it was seen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from prestage.api.annotations import WARM_GATE, OnTimeout, Request
from prestage.cacher.errors import PrestageError
from prestage.control.gates.decision import Decision, Reason, Verdict, decide, is_unwell
from prestage.control.gates.looking import Look
from prestage.control.gates.preference import with_preference
from prestage.control.gates.situation import Surroundings, surroundings
from prestage.control.gates.touched import Touched
from prestage.control.gates.world import World, age_s
from prestage.control.patches import difference, expected
from prestage.control.podspec import gates_of, is_gated, is_over, node_of, part
from prestage.kube.errors import Conflict, Invalid, Missing
from prestage.kube.mirror import Key, key_of
from prestage.kube.ports import Api, Object, PatchType, name_of, namespace_of, uid_of
from prestage.kube.resources import PODS

_JSON = PatchType.JSON
_log = logging.getLogger("prestage")
_PAUSE_S: Final = 0.02
"""Changes that come together are looked at together."""
_LOOK_S: Final = 1.0
"""Timeouts are met to the second, or two where thousands wait."""
_SHARE: Final = 8
_IN_A_ROW: Final = 200
"""Pods looked at before others of this loop have their turn."""
_BY_TIME: Final = frozenset(
    {
        Reason.TIMED_OUT,
        Reason.ROLLOUT_DUE,
        Reason.TOO_LATE,
        Reason.UNKNOWN,
        Reason.IMAGE_PULLED,
        Reason.CONTROLLER_UNWELL,
    }
)
"""Nothing changed but the clock."""
_AT_ONCE: Final = 16
_AGAIN_S: Final = 2.0
"""After a patch that the API server did not take."""
ASSUMED_S: Final = 15.0
"""How long a released pod counts where it will probably land, before it is seen bound."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with one gated pod."""

    pod: Object
    verdict: Verdict
    seen: Surroundings


@dataclass(slots=True)
class _Released:
    pod: Object
    node: str
    at_s: float


@dataclass(slots=True)
class Gates:
    """`run` under the planner's leadership. `retired`: where to say what became of a pod (metrics, events)."""

    api: Api
    world: World
    retired: Callable[[Step], None] = lambda step: None
    reacted: Callable[[float], None] = lambda seconds: None
    """Told of each patch how many seconds after the change that it answers it is ready to be sent."""
    only_when_unwell: bool = False
    """The guard beside admission: takes all gates off while nobody leads, else does nothing."""
    _not_before_s: dict[str, float] = field(default_factory=dict)
    _released: dict[str, _Released] = field(default_factory=dict)
    _sending: dict[str, Step] = field(default_factory=dict)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """For ever. A slow API server holds up what is sent, not what is decided."""
        touched = self.world.touched()
        touched.add(None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep(touched, group))
            while True:
                await touched.wait()
                await asyncio.sleep(_PAUSE_S)
                since_s, pods = touched.since_s, self._with_freed(touched.take())
                if self.world.whole:
                    await self._look(pods, group, lambda pod, since_s=since_s: since_s)  # type: ignore[misc]  # bound at once

    def _with_freed(self, pods: Set[Key] | None) -> Set[Key] | None:
        return None if pods is None else pods | self._freed(pods)

    def _freed(self, pods: Set[Key]) -> Set[Key]:
        """Those that may have the room of `pods` that landed elsewhere than was thought."""
        found = set[Key]()
        for one in self._released.values():
            if one.node and (key := key_of(one.pod)) in pods and (there := self.world.pod(key)) is not None:
                holding = self.world.holding(one.node)
                if holding is not None and node_of(there) not in ("", one.node):
                    found |= self.world.wanting(holding.states)
        return found

    async def _sweep(self, touched: Touched, group: asyncio.TaskGroup) -> None:
        """What it finds was read after the last one began, or just now: then it is only faster than who waits for more."""
        took_s, before_s = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(max(_LOOK_S, _SHARE * took_s))
            began_s, began_cpu_s = time.monotonic(), time.thread_time()
            if self.world.whole:
                await self._look(None, group, self._cause(touched, before_s))
            before_s, took_s = began_s, time.thread_time() - began_cpu_s

    def _cause(self, touched: Touched, before_s: float) -> Callable[[Object], float]:
        """What waits to be looked at is told apart now: a look forgets who landed elsewhere than was thought."""
        since_s, waiting = touched.since_s, self._with_freed(touched.pods)
        return lambda pod: since_s if waiting is None or key_of(pod) in waiting else before_s

    async def _look(self, keys: Set[Key] | None, group: asyncio.TaskGroup, since_s: Callable[[Object], float]) -> None:
        """`since_s`: when what is answered for a pod was read, at the earliest."""
        pods = self._oldest_first(keys)
        for first in range(0, len(pods), _IN_A_ROW):
            due = self._steps(pods[first : first + _IN_A_ROW])
            if due:
                self._note(due, since_s)
                group.create_task(self._send(due))
            await asyncio.sleep(0)

    def steps(self, keys: Set[Key] | None = None) -> list[Step]:
        """What is to be done now, oldest pods first; None: with all."""
        return self._steps(self._oldest_first(keys))

    def _oldest_first(self, keys: Set[Key] | None) -> list[Object]:
        """Those that are gated."""
        world = self.world
        if self.only_when_unwell and not is_unwell(world.lease_age_s()):
            return []
        if keys is None:
            there = {uid_of(pod) for pod in filter(None, map(world.pod, world.gated))}
            for uid in self._not_before_s.keys() - there:
                del self._not_before_s[uid]
        gated = world.gated if keys is None else world.gated & keys
        return sorted(filter(None, map(world.pod, gated)), key=lambda pod: (-age_s(pod, world.now()), key_of(pod)))

    def _steps(self, pods: Sequence[Object]) -> list[Step]:
        found = list[Step]()
        look = Look(self.world, self._assumed()) if pods else None
        for pod in pods:
            assert look is not None
            step = self._decided(pod, look)
            if step is None or step.verdict.decision is Decision.GATE:
                continue
            if step.seen.warm:
                look.assume(step.seen.warm[0], pod)
            found.append(step)
        return found

    def _decided(self, pod: Object, look: Look) -> Step | None:
        if not is_gated(pod) or is_over(pod) or uid_of(pod) in self._released or uid_of(pod) in self._sending:
            return None
        if self._not_before_s.get(uid_of(pod), 0.0) > self.world.clock():
            return None
        wish = self.world.wishes.of(pod)
        seen = surroundings(pod, wish.request, wish.models, look=look, waited_s=self._waited_s(pod, wish.request))
        verdict = decide(seen.situation)
        if self.only_when_unwell and verdict.reason is not Reason.CONTROLLER_UNWELL:
            return None
        return Step(pod, verdict, seen)

    def _waited_s(self, pod: Object, request: Request) -> float:
        """Where nobody saw it begin, for our leadership is new: none is failed too early, no other is held too long."""
        waited = self.world.waited(pod)
        return waited.least_s if request.on_timeout is OnTimeout.FAIL else waited.most_s

    def _assumed(self) -> dict[str, list[Object]]:
        now_s = self.world.clock()
        found = dict[str, list[Object]]()
        for step in self._sending.values():
            if step.seen.warm:
                found.setdefault(step.seen.warm[0], []).append(step.pod)
        for uid, one in list(self._released.items()):
            there = self.world.pod(key_of(one.pod))
            if now_s - one.at_s > ASSUMED_S or there is None or uid_of(there) != uid or node_of(there):
                del self._released[uid]
            elif one.node:
                found.setdefault(one.node, []).append(one.pod)
        return found

    async def take(self, steps: Sequence[Step]) -> None:
        """Carry them out, some at a time: a rollout's pods are released together."""
        self._note(steps, None)
        await self._send(steps)

    def _note(self, steps: Sequence[Step], since_s: Callable[[Object], float] | None) -> None:
        for step in steps:
            self._sending[uid_of(step.pod)] = step
            if since_s is not None and step.verdict.reason not in _BY_TIME:
                self.reacted(time.monotonic() - since_s(step.pod))

    async def _send(self, steps: Sequence[Step]) -> None:
        async def one(step: Step) -> None:
            try:
                async with self._at_once:
                    await self._take(step)
            finally:
                del self._sending[uid_of(step.pod)]

        await asyncio.gather(*map(one, steps))

    async def _take(self, step: Step) -> None:
        name, namespace = name_of(step.pod), namespace_of(step.pod)
        said = {"pod": f"{namespace}/{name}", "reason": str(step.verdict.reason), "warm_nodes": len(step.seen.warm)}
        try:
            if step.verdict.decision is Decision.FAIL:
                await self.api.patch(PODS, name, failed_patch(step), namespace=namespace, subresource="status")
            else:
                patch = release_patch(step.pod, step.seen.places)
                await self.api.patch(PODS, name, patch, namespace=namespace, type=_JSON)
        except (Conflict, Invalid, Missing) as exc:
            _log.info("gate_kept", extra={"fields": said | {"why": str(exc)}})  # it changed meanwhile: the next change tells
            return
        except PrestageError as exc:
            self._not_before_s[uid_of(step.pod)] = self.world.clock() + _AGAIN_S
            _log.warning("gate_kept", extra={"fields": said | {"why": str(exc)}})
            return
        self._released[uid_of(step.pod)] = _Released(step.pod, next(iter(step.seen.warm), ""), self.world.clock())
        _log.info("gate_released", extra={"fields": said | {"decision": str(step.verdict.decision)}})
        self.retired(step)


def release_patch(pod: Object, places: Sequence[str] = ()) -> list[Object]:
    """Our gate goes and the preference comes, in one."""
    index = gates_of(pod).index(WARM_GATE)
    at = f"/spec/schedulingGates/{index}"
    preferring = with_preference(pod, places)
    affinity = difference(part(pod, "spec").get("affinity"), part(preferring, "spec").get("affinity"), "/spec/affinity")
    if affinity and not part(pod, "spec").get("affinity"):
        affinity = [{"op": "add", "path": "/spec/affinity", "value": part(preferring, "spec").get("affinity")}]
    tests = [expected("/metadata/uid", uid_of(pod)), expected(f"{at}/name", WARM_GATE)]
    return [*tests, *affinity, {"op": "remove", "path": at}]


def failed_patch(step: Step) -> Object:
    """Of the status: a pod that nobody started may be failed by who may write its status; its owner makes another one.

    A merge patch; the UID in it makes it a Conflict for another pod of that name.
    """
    timeout_s = step.seen.situation.gate_timeout_s
    message = f"no fitting node held its models within prestage.dev/gate-timeout ({timeout_s:g} s), and on-timeout is Fail"
    status = {"phase": "Failed", "reason": "NotWarmInTime", "message": message}
    return {"metadata": {"uid": uid_of(step.pod)}, "status": status}
