"""What autoscalers and controllers will have, whatever happens: floors, rollouts, pods that have to move. Pure.

HorizontalPodAutoscaler     minReplicas, always
ScaledObject (KEDA)         minReplicaCount, always; desiredReplicas of each cron trigger, from its start to its end
rollout                     the pods that the newest template still lacks, before they are there
a node that leaves          its pods, elsewhere
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prestage.calendar.moments import Reading, cron_of
from prestage.calendar.windows import ALWAYS, Between, Openings, Window
from prestage.control.demand.cron_jobs import asked
from prestage.control.demand.declared import Declaration, Place, Problem, Remembered, Want
from prestage.control.demand.trimming import KEDA_PAUSED
from prestage.control.demand.workloads import Workload, Workloads
from prestage.control.templates import controller_of
from prestage.kube.events import Subject
from prestage.kube.ports import Object, Resource, metadata_of, namespace_of, uid_of
from prestage.kube.resources import CRON_JOBS, HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS
from prestage.planner.demands import ToldBy

FLOOR = "floor"
ROLLOUT = "rollout"
MOVING = "moving"


@dataclass(frozen=True, slots=True)
class Standing:
    """Pods of one workload, by the hash of their template: node to number, and how many have none yet."""

    at: Mapping[str, Mapping[str, int]]
    waiting: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Floors:
    """What is looked at for all of them."""

    workloads: Workloads
    priorities: Mapping[str, int]
    remembered: Remembered
    now: float

    def of_autoscaler(self, resource: Resource, seen: Object) -> Declaration | None:
        """None: it asks for nothing, or its target is none that is planned for."""
        spec = _mapping(seen.get("spec"))
        ref = _mapping(spec.get("scaleTargetRef"))
        kind = str(ref.get("kind") or "Deployment")
        workload = self.workloads.find(kind, namespace_of(seen) or "", str(ref.get("name", "")))
        if workload is None or not workload.facts.models or _is_kedas(seen) or _is_paused(seen):
            return None
        if resource is HORIZONTAL_POD_AUTOSCALERS and workload.replicas == 0:
            return None  # scaled to nothing by hand: the autoscaler stands still
        wants, problems = list[Want](), list[Problem]()
        for name, window, count in _floors(resource, spec, problems):
            openings = self.remembered.at(uid_of(seen), name, window, self.now)
            wants += self._wants(workload, name, openings, count)
        subject = Subject.of(resource, seen)
        priority = self.priorities.get(workload.priority_class, 0)
        return Declaration(subject, ToldBy.AUTOSCALER, tuple(wants), tuple(problems), priority) if wants or problems else None

    def of_rollout(self, workload: Workload, standing: Standing) -> Declaration | None:
        """None: all its pods are of its newest template, or it has none."""
        template = self.workloads.template(workload, "") if workload.subject.resource is not CRON_JOBS else None
        if template is None or not workload.facts.models or not workload.replicas:
            return None
        there = sum(standing.at.get(template.hash, {}).values()) + standing.waiting.get(template.hash, 0)
        is_rolling = any(sum(found.values()) for hash_, found in standing.at.items() if hash_ != template.hash)
        if not is_rolling or there >= workload.replicas:
            return None
        openings = self.remembered.at(workload.uid, ROLLOUT, ALWAYS, self.now)
        wants = self._wants(workload, ROLLOUT, openings, workload.replicas)
        return Declaration(workload.subject, ToldBy.ROLLOUT, tuple(wants), (), self.priorities.get(workload.priority_class, 0))

    def of_moving(self, workload: Workload, standing: Standing, leaving: frozenset[str]) -> Declaration | None:
        """None: none of its pods is on a node that leaves."""
        if workload.subject.resource is CRON_JOBS or not workload.facts.models:
            return None
        count = sum(number for found in standing.at.values() for node, number in found.items() if node in leaving)
        if not count:
            return None
        openings = self.remembered.at(workload.uid, MOVING, ALWAYS, self.now)
        wants = self._wants(workload, MOVING, openings, count, avoid=leaving)
        return Declaration(workload.subject, ToldBy.POD, tuple(wants), (), self.priorities.get(workload.priority_class, 0))

    def _wants(
        self, workload: Workload, name: str, openings: Openings, count: int, avoid: frozenset[str] = frozenset()
    ) -> list[Want]:
        opening = openings.open or openings.next
        models = asked(workload, self.workloads, opening) if opening is not None and count else None
        if models is None:
            return []
        uid = "" if avoid else workload.uid  # pods that move take the room of others, not their own
        return [Want(name, openings, models, Place(workload.facts.needs, None, uid, avoid=avoid), count)]


def _floors(resource: Resource, spec: Mapping[str, object], problems: list[Problem]) -> Iterator[tuple[str, Window, int]]:
    if resource is HORIZONTAL_POD_AUTOSCALERS:
        yield FLOOR, ALWAYS, _count(spec.get("minReplicas"), 1)
        return
    if least := _count(spec.get("minReplicaCount"), 0):
        yield FLOOR, ALWAYS, least
    for number, trigger in enumerate(_list(spec.get("triggers"))):
        said = _mapping(trigger.get("metadata"))
        try:
            start, end = (
                cron_of(str(said.get(name, "")), str(said.get("timezone") or "UTC"), reading=Reading.CRON_JOB)
                for name in ("start", "end")
            )
        except ValueError as exc:
            problems.append(Problem("Ready", "BadTrigger", f"cron trigger {number}: {exc}"))
            continue
        text = str(said.get("desiredReplicas", "0"))
        yield f"cron-{number}", Between(start, end), int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def _is_kedas(seen: Object) -> bool:
    """An HPA that KEDA made: its ScaledObject says more."""
    owner = controller_of(seen)
    return owner is not None and owner.get("kind") == SCALED_OBJECTS.kind


def _is_paused(seen: Object) -> bool:
    said = _mapping(metadata_of(seen).get("annotations"))
    return any(str(said.get(key, "false")) != "false" for key in KEDA_PAUSED)


def _count(given: object, otherwise: int) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else otherwise


def _list(given: object) -> Iterable[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}
