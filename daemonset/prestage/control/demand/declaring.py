"""All declarations of a moment, and the demands they are. Keeps what it read of each object.

look at workloads ─▶ StagingSchedules, ready-schedule, CronJobs, floors, rollouts, nodes that leave ─▶ dues, cut fairly
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from prestage.api.nodes import EntryType
from prestage.control.demand.cron_jobs import ready_declaration, run_declaration
from prestage.control.demand.declared import OBJECTS_MAX, Asked, Chosen, Declaration, Due, Remembered, Want, dues
from prestage.control.demand.floors import Floors, Standing
from prestage.control.demand.image_lines import image_question
from prestage.control.demand.leaving import is_leaving
from prestage.control.demand.pods import PodFacts
from prestage.control.demand.records import Known
from prestage.control.demand.schedules import Around, ReadSchedule, declaration_of, read_schedule
from prestage.control.demand.sites import Sites
from prestage.control.demand.workloads import Workloads
from prestage.images.names import SCHEME
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import (
    CRON_JOBS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    SCALED_OBJECTS,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STATEFUL_SETS,
)
from prestage.planner.demands import Demand, Trust

_NOBODY = Standing({}, {})


class Mirrors(Protocol):
    """`World`, or the mirrors of a test."""

    def __getitem__(self, resource: Resource) -> Mirror: ...


@dataclass(frozen=True, slots=True)
class Said:
    """At one moment."""

    declarations: tuple[Declaration, ...] = ()
    chosen: Chosen = field(default_factory=Chosen)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    ones: dict[frozenset[str], dict[str, int]] = field(default_factory=dict)
    """One copy on each of these nodes: alike for all schedules that select them."""


class Declaring:
    """`sites`: looked at before."""

    def __init__(self, sites: Sites) -> None:
        self._sites, self._workloads, self._remembered = sites, Workloads(), Remembered()
        self._schedules: dict[str, tuple[str, ReadSchedule]] = {}

    def declare(
        self, mirrors: Mirrors, enabled: set[str], standing: Mapping[str, Standing], now: float, *, pulls: bool = False
    ) -> Said:
        """`enabled`: namespaces that are in. `standing`: pods of each workload, by its UID. `pulls`: some node stages images."""
        of_workloads = {one: mirrors[one] for one in (DEPLOYMENTS, STATEFUL_SETS, CRON_JOBS, REPLICA_SETS)}
        self._workloads.look(of_workloads, enabled)
        priorities = priorities_of(mirrors[PRIORITY_CLASSES])
        unread = set[str]()

        def each(resource: Resource) -> Iterator[Object]:
            yield from _oldest(mirrors[resource], enabled, unread)

        found = list(self._schedule_declarations(each(STAGING_SCHEDULES), mirrors[STAGED_MODELS], priorities, now))
        of_pods = self._workload_declarations(each, priorities, standing, now)
        found += self._with_images(of_pods) if pulls else of_pods
        self._remembered.turn()
        return Said(tuple(found), dues(found, now), standing, frozenset(unread))

    def demand(self, due: Due, known: Known, said: Said) -> Demand:
        """Where it could run: what fits now, and the nodes that its own pods would give free."""
        place = due.want.place
        at: dict[str, int] = {}
        if place.needs is None:
            feasible = place.names or frozenset()
            if feasible not in said.ones:
                said.ones[feasible] = dict.fromkeys(feasible, 1)
            at = said.ones[feasible]
        else:
            feasible = self._sites.feasible(place.needs) - place.avoid
            feasible = feasible if place.names is None else feasible & place.names
            at = {name: count for name, count in self._sites.fitting(place.needs).items() if name in feasible}
            for found in said.standing.get(place.uid, _NOBODY).at.values():
                for name, count in found.items():
                    if name in feasible:
                        at[name] = at.get(name, 0) + count
        copies, wanted = place.copies, due.want.count
        if due.asked.architecture:
            feasible = self._sites.by_architecture(feasible).get(due.asked.architecture, frozenset())
            at = {name: count for name, count in at.items() if name in feasible}
            copies = None if copies is None else min(copies, len(feasible))
            wanted = min(wanted, len(feasible)) if place.needs is None else wanted
        return Demand(
            due.id,
            known.artifact,
            known.size_bytes,
            due.declaration.namespace,
            Trust.DECLARED,
            at=at,
            feasible=frozenset(feasible),
            count=wanted,
            ready_by=due.ready_by,
            until=None if due.opening.ends == math.inf else due.opening.ends,
            source=due.declaration.source,
            copies=copies,
            chance=due.declaration.chance,
            priority=due.declaration.priority,
            kind=EntryType.IMAGE if due.asked.architecture else EntryType.MODEL,
            together=f"{due.declaration.subject.uid}/{due.want.window}/{due.opening.begins}",
        )

    def _with_images(self, declarations: Iterable[Declaration]) -> Iterator[Declaration]:
        """A workload's images are wanted with its models, by the same template."""
        facts = {workload.uid: workload.facts for workload in self._workloads}
        for one in declarations:
            wants = tuple(self._with_images_of(want, facts.get(want.place.uid)) for want in one.wants)
            yield one if wants == one.wants else replace(one, wants=wants)

    def _with_images_of(self, want: Want, facts: PodFacts | None) -> Want:
        if facts is None or not want.models or want.place.needs is None:
            return want
        line, images = want.models[0].question.line, facts.images
        architectures = self._sites.by_architecture(self._sites.feasible(want.place.needs))
        more = (
            Asked(ref.removeprefix(SCHEME), image_question(facts.namespace, line.uid, line.hash, ref, one, images.secrets), one)
            for one in architectures
            for ref in images.refs
        )
        return replace(want, models=(*want.models, *more))

    def _schedule_declarations(
        self, seen: Iterable[Object], models: Mirror, priorities: Mapping[str, int], now: float
    ) -> Iterator[Declaration]:
        fresh: dict[str, tuple[str, ReadSchedule]] = {}
        around = Around(models, self._workloads, self._sites, priorities, self._remembered)
        for one in seen:
            uid, version = uid_of(one), str(version_of(one))
            before = self._schedules.get(uid)
            entry = fresh[uid] = before if before is not None and before[0] == version else (version, read_schedule(one))
            yield declaration_of(entry[1], around, now)
        self._schedules = fresh

    def _workload_declarations(
        self,
        each: Callable[[Resource], Iterator[Object]],
        priorities: Mapping[str, int],
        standing: Mapping[str, Standing],
        now: float,
    ) -> list[Declaration]:
        workloads, remembered = self._workloads, self._remembered
        made = list[Declaration | None]()
        for seen in each(CRON_JOBS):
            workload = workloads.find(CRON_JOBS.kind, namespace_of(seen) or "", name_of(seen))
            if workload is not None:
                made.append(run_declaration(seen, workload, workloads, priorities, remembered, now))
        floors = Floors(workloads, priorities, remembered, now)
        for resource in (HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS):
            made += [floors.of_autoscaler(resource, seen) for seen in each(resource)]
        leaving = frozenset(name for name, site in self._sites.by_name.items() if is_leaving(site.taints))
        for workload in workloads:
            if workload.schedule is not None or workload.mistakes:
                made.append(ready_declaration(workload, workloads, priorities, remembered, now))
            if (there := standing.get(workload.uid)) is not None:
                made.append(floors.of_rollout(workload, there))
                made.append(floors.of_moving(workload, there, leaving) if leaving else None)
        return [one for one in made if one is not None]


def priorities_of(classes: Iterable[Object]) -> dict[str, int]:
    """By name; "" is what pods get that name none."""
    found: dict[str, int] = {}
    for seen in classes:
        value = seen.get("value")
        if isinstance(value, int):
            found[name_of(seen)] = value
            if seen.get("globalDefault") is True:
                found[""] = value
    return found


def _oldest(mirror: Iterable[Object], enabled: set[str], unread: set[str]) -> Iterator[Object]:
    """Of each namespace that is in, as many as are looked at."""
    by_namespace: dict[str, list[Object]] = {}
    for seen in mirror:
        if (namespace := namespace_of(seen)) in enabled:
            by_namespace.setdefault(namespace or "", []).append(seen)
    for found in by_namespace.values():
        if len(found) > OBJECTS_MAX:
            kept = heapq.nsmallest(OBJECTS_MAX, found, key=_age)
            names = {uid_of(seen) for seen in kept}
            unread.update(uid for seen in found if (uid := uid_of(seen)) not in names)
            found = kept
        yield from found


def _age(seen: Object) -> tuple[str, str]:
    return str(metadata_of(seen).get("creationTimestamp", "")), name_of(seen)
