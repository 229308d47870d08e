"""Asks for nodes while we lead: CapacityBuffers are made, resized and deleted as the plan's windows come and go.

    plan, buffers of ours ─▶ wishes ─▶ deeds ─▶ create, patch and delete, each of that very object

Where the kind is not served it is looked for once a minute, and nothing else happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final

from prestage.api.texts import duration_s
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import Denied, NotFound, PrestageError
from prestage.control.capacity.buffers import (
    OURS_ONLY,
    POD_TEMPLATES,
    VERSIONS,
    Standing,
    body_of,
    buffer_name,
    deeds,
    made_at,
    resize_of,
    standing,
    template_name,
    template_of,
)
from prestage.control.capacity.told import Capacity, Served
from prestage.control.capacity.wishes import Wish, next_at, wanted
from prestage.control.demand.collecting import Mirrors
from prestage.control.demand.world import LOOKING_S
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.together import Service, Together
from prestage.kube.errors import Conflict, Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Mirror, Synced
from prestage.kube.ports import Api, Object, Resource, name_of, uid_of
from prestage.kube.resources import NODES, STAGING_SCHEDULES
from prestage.planner.rules import Rules

MANAGER: Final = "prestage-planner"
_AGAIN_S: Final = 10.0


class Asking:
    """`run` while leading."""

    def __init__(
        self,
        api: Api,
        world: Mirrors,
        board: Board,
        capacity: Capacity,
        *,
        rules: Rules | None = None,
        now: Callable[[], float] = time.time,
        writes: Counter[str] | None = None,
        looking_s: float = LOOKING_S,
    ) -> None:
        self._api, self._world, self._board, self._capacity = api, world, board, capacity
        self._rules, self._now, self._looking_s = rules or Rules(), now, looking_s
        self._writes = Counter[str]() if writes is None else writes
        self._resource: Resource = VERSIONS[0]
        self._mirror: Mirror | None = None
        self._put_off: dict[str, float] = {}
        """UID of a schedule to when it is tried again, on the loop's clock."""
        self._again_s = min(_AGAIN_S, looking_s)
        self._news = board.reader()

    async def run(self) -> None:
        """Never returns."""
        self._capacity.served = Served.LOOKING
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._decide())

    async def _follow(self) -> None:
        self._resource = await self._look_for()
        follower = Follower(self._api, self._resource, OURS_ONLY)
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    self._mirror, self._capacity.served = follower.mirror, Served.YES
                self._news.set()

    async def _look_for(self) -> Resource:
        """Until the API server has the kind, and lets us see it."""
        while True:
            forbidden = False
            for resource in VERSIONS:
                try:
                    await self._api.page(resource, OURS_ONLY, limit=1)
                except NotFound:
                    continue
                except Denied:
                    forbidden = True  # so it is answered for a kind that is not there, too, where nothing is allowed
                except PrestageError:
                    break
                else:
                    return resource
            else:
                self._capacity.served = Served.FORBIDDEN if forbidden else Served.ABSENT
            await asyncio.sleep(self._looking_s)

    async def _decide(self) -> None:
        while True:
            self._news.clear()
            wait_s = await self.step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    async def step(self) -> float:
        """Look, and do what is to be done. Returns for how long there is nothing to do if nothing happens."""
        posted, mirror = self._board.last, self._mirror
        if posted is None or mirror is None:
            return self._looking_s
        now, capacity = self._now(), self._capacity
        there = [one for seen in mirror if (one := standing(seen)) is not None]
        capacity.standing = {one.owner: one for one in there}
        self._recall()
        found = capacity.wishes(posted.collected, posted.nodes, self._rules)
        self._measure(posted, found, now)
        asked = wanted(found, now)
        capacity.refused = {uid: why for uid, why in capacity.refused.items() if uid in asked}
        due = deeds(asked, there)
        for one in due.delete:
            await self._tried(one.owner, partial(self._delete, one))
        for one, wish in due.resize:
            await self._tried(one.owner, partial(self._resize, one, wish))
        for wish in due.make:
            await self._tried(wish.subject.uid, partial(self._make, wish))
        self._put_off = {uid: until for uid, until in self._put_off.items() if until > self._clock()}
        return min(next_at(found, now) - now, self._again_s if self._put_off else self._looking_s)

    def _recall(self) -> None:
        """What statuses say, for what began before this process did."""
        there = set[str]()
        for seen in self._world[STAGING_SCHEDULES]:
            there.add(uid_of(seen))
            self._capacity.boots.recall(uid_of(seen), boots_in(seen))
        self._capacity.boots.forget(there)

    def _measure(self, posted: Posted, found: Iterable[Wish], now: float) -> None:
        by_name = {name_of(node): node for node in self._world[NODES]}
        feasible: dict[str, frozenset[str]] = {}
        for wish in found:
            feasible[wish.subject.uid] = feasible.get(wish.subject.uid, frozenset()) | wish.feasible
        up = {one.name: one.uid for one in posted.nodes if one.takes_more and one.name in by_name}
        for uid, names in feasible.items():
            buffer = self._capacity.standing.get(uid)
            if buffer is not None:
                made = {up[name]: made_at(by_name[name]) for name in names if name in up}
                replicas = buffer.spec.get("replicas")
                count = replicas if isinstance(replicas, int) else 0
                self._capacity.boots.look(uid, (buffer.uid, buffer.since, count), made, now)

    async def _make(self, wish: Wish) -> None:
        subject = wish.subject
        template = template_of(wish)
        if template is not None:
            await self._api.apply(POD_TEMPLATES, template, manager=MANAGER, force=True)
        body = {"apiVersion": self._resource.group_version, "kind": self._resource.kind, **body_of(wish)}
        try:
            await self._api.create(self._resource, body)
        except Conflict:
            there = await self._api.get(self._resource, buffer_name(subject), namespace=subject.namespace)
            if (found := standing(there)) is None or found.owner != subject.uid:
                self._capacity.refused[subject.uid] = (
                    f"there is another CapacityBuffer {buffer_name(subject)} in this namespace, which is not ours: "
                    "delete or rename it"
                )
                self._put_off[subject.uid] = self._clock() + self._again_s
            return
        self._capacity.refused.pop(subject.uid, None)
        self._writes["capacitybuffer"] += 1
        log("nodes_asked_for", fields=_fields(subject.namespace, buffer_name(subject), replicas=wish.count))

    async def _resize(self, one: Standing, wish: Wish) -> None:
        with contextlib.suppress(Missing):
            await self._api.patch(self._resource, one.name, resize_of(wish, one.uid), namespace=one.namespace)
            self._writes["capacitybuffer"] += 1
            log("nodes_asked_for", fields=_fields(one.namespace, one.name, replicas=wish.count))

    async def _delete(self, one: Standing) -> None:
        with contextlib.suppress(Missing, Conflict):
            await self._api.delete(self._resource, one.name, namespace=one.namespace, uid=one.uid)
            self._writes["capacitybuffer"] += 1
        log("nodes_let_go", fields=_fields(one.namespace, one.name))
        ref = one.spec.get("podTemplateRef")
        if isinstance(ref, Mapping) and ref.get("name") == template_name(one.owner):
            with contextlib.suppress(Missing):
                await self._api.delete(POD_TEMPLATES, template_name(one.owner), namespace=one.namespace)

    async def _tried(self, schedule: str, deed: Callable[[], Awaitable[None]]) -> None:
        """One that failed is put off, so that a burst of plans is no burst of requests."""
        if self._put_off.get(schedule, 0.0) > self._clock():
            return
        try:
            await deed()
        except PrestageError as exc:
            log("nodes_not_asked_for", level=logging.WARNING, fields={"error": str(exc)})
            self._writes["failed"] += 1
            self._put_off[schedule] = self._clock() + self._again_s

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()


def boots_in(schedule: Object) -> list[float]:
    """What its status says; what cannot be read is left out."""
    status = schedule.get("status")
    capacity = status.get("capacity") if isinstance(status, Mapping) else None
    said = capacity.get("boots") if isinstance(capacity, Mapping) else None
    found = list[float]()
    for text in said if isinstance(said, list) else ():
        with contextlib.suppress(ValueError):
            found.append(duration_s(str(text)))
    return found


def _fields(namespace: str | None, name: str, **more: object) -> dict[str, object]:
    return {"namespace": namespace, "buffer": name, **more}


def asking(capacity: Capacity, rules: Rules, now: Callable[[], float], writes: Counter[str]) -> Service:
    """As a service of the planner's leader. `writes`: where they are counted."""

    async def run(together: Together) -> None:
        await Asking(together.api, together.world, together.board, capacity, rules=rules, now=now, writes=writes).run()

    return run
