"""Writes what statuses.py and explaining.py say: statuses at most once a second, events when something new is wrong."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from prestage.api.models import StagedModel
from prestage.api.policies import CachePolicy, StorePool
from prestage.api.reading import Invalid, read, written
from prestage.api.schedules import StagingSchedule
from prestage.api.values import API_VERSION, Metadata, Stored
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.broker.shelf import object_name
from prestage.control.capacity.foresight import Foresight, foresight_of
from prestage.control.capacity.told import Capacity
from prestage.control.demand.collecting import is_enabled
from prestage.control.demand.schedules import model_line
from prestage.control.demand.world import World
from prestage.control.planning.access import rows_in
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.explaining import complaints, unread
from prestage.control.planning.outcomes import Outcomes, Settled
from prestage.control.planning.schedules import dues_by_uid, is_told, schedule_status, too_many_status, view_of
from prestage.control.planning.seeing import labels_of
from prestage.control.planning.statuses import Spread, model_status, policy_status, pool_status, spreads
from prestage.control.planning.steps import steps_in, with_steps
from prestage.control.planning.writing import MANAGER
from prestage.control.unreadable import unreadable_status
from prestage.kube.errors import Invalid as Refused
from prestage.kube.errors import Missing
from prestage.kube.events import Recorder, Subject
from prestage.kube.mirror import Change, Changed
from prestage.kube.ports import Api, Object, Resource, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import (
    ARTIFACTS,
    CACHE_POLICIES,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STORE_POOLS,
)
from prestage.planner.demands import ToldBy
from prestage.planner.rules import Rules

_EVERY_S: Final = 1.0
_EACH: Final = 50
"""Statuses of schedules of one namespace that are written at a time."""
_OF_OPERATORS: Final[tuple[tuple[type[Stored], Resource, str], ...]] = (
    (CachePolicy, CACHE_POLICIES, "nothing new is resolved or staged in any namespace"),
    (StorePool, STORE_POOLS, "its budget, rates, windows and mirrors are not heeded"),
)
Kind = TypeVar("Kind", bound=Stored)


class Reporting:
    """`run` while leading."""

    def __init__(
        self,
        world: World,
        api: Api,
        board: Board,
        recorder: Recorder,
        *,
        writes: Counter[str] | None = None,
        settled: Callable[[Settled], None] = lambda settled: None,
        capacity: Capacity | None = None,
        rules: Rules | None = None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._world, self._api, self._board, self._recorder, self._now = world, api, board, recorder, now
        self._posted = board.reader()
        self._complained: dict[tuple[str, str], str] = {}
        self._wrote: dict[str, tuple[str, object]] = {}
        self._writes = Counter[str]() if writes is None else writes
        self._outcomes, self._settled = Outcomes(), settled
        self._capacity, self._rules = capacity or Capacity(), rules or Rules()
        world.listen(self._listen)

    def _listen(self, resource: Resource, change: Change) -> None:
        """A step is worth a status, not a plan."""
        if resource is NODE_CACHES and isinstance(change, Changed) and steps_in(change.before) != steps_in(change.object):
            self._posted.set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            if (posted := self._board.last) is not None:
                for one in self._outcomes.look(posted.collected, posted.plan, self._now().timestamp()):
                    self._settled(one)
                self.complain(posted)
                await self.report(posted)
            await asyncio.sleep(_EVERY_S)

    def complain(self, posted: Posted) -> None:
        """An event for each thing that is wrong and was not a moment ago."""
        models = {uid_of(one): Subject.of(STAGED_MODELS, one) for one in self._world[STAGED_MODELS]}
        fresh: dict[tuple[str, str], str] = {}
        awaited = self._foresight(posted).awaited
        broken = (unread(Subject.of(resource, seen), why) for resource, seen, why in self._unread())
        for one in (*complaints(posted, models, self._outcomes, awaited), *broken):
            key = one.subject.uid, one.alias
            fresh[key] = one.mark or f"{one.reason} {one.note}"
            if self._complained.get(key) != fresh[key]:
                self._recorder.say(one.said)
        self._complained = fresh

    async def report(self, posted: Posted) -> None:
        """Every status that should say something else."""
        now, world = self._now(), self._world
        namespaces = list(world[NAMESPACES])
        enabled = [one for one in namespaces if is_enabled(one)]
        names = set(map(name_of, enabled))
        found = spreads(posted.plan, with_steps(posted.nodes, world[NODE_CACHES]))
        for seen, model in _each(StagedModel, world[STAGED_MODELS]):
            if namespace_of(seen) in names:
                line = model_line(seen)
                known = posted.collected.known.get(line)
                spread = found.get(known.artifact, Spread()) if known is not None else Spread()
                seen_artifact = world[ARTIFACTS].get(object_name(known.artifact), known.namespace) if known is not None else None
                status = model_status(model, known, posted.failures.get(line), spread, now, access=rows_in(seen_artifact))
                await self._apply(STAGED_MODELS, seen, _bare(model, status=status))
        await self._report_schedules(posted, names, found, now)
        labels = [labels_of(one) for one in enabled]
        for seen, policy in _each(CachePolicy, world[CACHE_POLICIES]):
            await self._apply(CACHE_POLICIES, seen, _bare(policy, status=policy_status(policy, labels, now)))
        nodes = [labels_of(one) for one in world[NODES]]
        for seen, pool in _each(StorePool, world[STORE_POOLS]):
            await self._apply(STORE_POOLS, seen, _bare(pool, status=pool_status(pool, nodes, now)))
        for resource, seen, why in self._unread():
            head = {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": {"name": name_of(seen)}}
            await self._applied(resource, seen, {**head, "status": unreadable_status(why, seen, now)})

    def _unread(self) -> Iterator[tuple[Resource, Object, str]]:
        """What operators wrote and cannot be read: why, and what follows from that."""
        for kind, resource, then in _OF_OPERATORS:
            for seen in self._world[resource]:
                try:
                    read(kind, seen)
                except Invalid as exc:
                    yield resource, seen, f"{exc}; {then} until it is corrected or deleted"

    async def _report_schedules(
        self, posted: Posted, names: set[str], found: Mapping[str, Spread], now: datetime.datetime
    ) -> None:
        """Those of one namespace after those of another, so that one with very many holds nobody up."""
        collected = posted.collected
        said = {one.subject.uid: one for one in collected.declarations if one.source is ToldBy.STAGING_SCHEDULE}
        dues = dues_by_uid(collected.dues.values())
        view = view_of(posted, found, self._outcomes, self._foresight(posted))
        left = Counter(dict.fromkeys(names, _EACH))
        for seen in self._world[STAGING_SCHEDULES]:
            namespace, uid = namespace_of(seen) or "", uid_of(seen)
            is_cut = uid in collected.unread
            if namespace not in names or (is_cut and is_told(seen)) or left[namespace] <= 0:
                continue
            schedule = _schedule(seen)
            if schedule is None or (uid not in said and not is_cut):
                continue
            if is_cut:
                status = too_many_status(schedule, now)
            else:
                status = schedule_status(schedule, said[uid], dues.get(uid, ()), view, now)
            left[namespace] -= await self._apply(STAGING_SCHEDULES, seen, _bare(schedule, status=status))

    def _foresight(self, posted: Posted) -> Foresight:
        return foresight_of(self._capacity, posted, self._rules, self._now().timestamp())

    async def _apply(self, resource: Resource, seen: Object, said: Stored) -> bool:
        """The status of `said`. True: asked."""
        body = {**{name: value for name, value in written(said).items() if name != "spec"}, "status": _status(said)}
        return await self._applied(resource, seen, body)

    async def _applied(self, resource: Resource, seen: Object, body: Object) -> bool:
        """A status by server-side apply, where it is not what is there nor what was just written. True: asked."""
        status = body["status"]
        before = version_of(seen), status
        if status == seen.get("status") or self._wrote.get(uid_of(seen)) == before:
            return False
        try:
            await self._api.apply(resource, body, manager=MANAGER, force=True, subresource="status")
        except Missing:
            return True
        except PrestageError as exc:
            fields = {"kind": resource.kind, "name": name_of(seen), "error": str(exc)}
            self._writes["failed"] += 1
            if isinstance(exc, Refused):
                self._wrote[uid_of(seen)] = before  # said again, it is refused again
            log("status_not_written", level=logging.WARNING, fields=fields)
            return True
        self._writes["status"] += 1
        self._wrote[uid_of(seen)] = before
        return True


def _schedule(seen: Object) -> StagingSchedule | None:
    """With its status where that can be read, else without."""
    for made in (seen, {name: value for name, value in seen.items() if name != "status"}):
        try:
            return read(StagingSchedule, made)
        except Invalid:
            continue
    return None


def _each(kind: type[Kind], seen: Iterable[Object]) -> Iterator[tuple[Object, Kind]]:
    """Those that can be read."""
    for one in seen:
        try:
            yield one, read(kind, one)
        except Invalid:
            continue


def _status(said: Stored) -> object:
    """Counts of nothing are said too: "0" is an answer in `kubectl get`."""
    status = written(said).get("status")
    if isinstance(said, StagedModel) and isinstance(status, dict):
        return {**status, "nodes": {"warm": 0, "staging": 0, "wanted": 0, **status.get("nodes", {})}}
    return status


def _bare(stored: Kind, **more: object) -> Kind:
    """To be applied: its name, and what we say."""
    head = Metadata(name=stored.metadata.name, namespace=stored.metadata.namespace)
    return msgspec.structs.replace(stored, metadata=head, **more)
