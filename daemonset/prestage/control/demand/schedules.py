"""StagingSchedules to declarations. Pure.

Where: targetRef (the nodes that its template may run on), nodes.selector, or both. For how many: the window's replicas, else
those of the target, else nodes.count, else every node that matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.reading import Invalid, read
from prestage.api.schedules import CapacityType, DemandType, ScheduledArtifact, StagingSchedule, Window
from prestage.api.texts import duration_s
from prestage.calendar import windows
from prestage.control.demand.declared import Asked, Declaration, Place, Problem, Remembered, Shape, Want
from prestage.control.demand.image_lines import image_question, ref_of
from prestage.control.demand.records import Line, Question
from prestage.control.demand.sites import Sites
from prestage.control.demand.workloads import Workload, Workloads
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, metadata_of, name_of, uid_of
from prestage.kube.resources import DEPLOYMENTS, STAGING_SCHEDULES, STATEFUL_SETS
from prestage.planner.demands import ToldBy

NO_SHAPE: Final = "NoShape"
"""It asks for nodes, and nobody can tell for which."""
MODEL_ALIAS: Final = "model"
"""Alias under which a StagedModel's own artifact is recorded: uid its UID, hash its generation, ref `ref:NAME`."""


def model_line(model: Object) -> Line:
    """Of a StagedModel: another generation is another question."""
    generation = metadata_of(model).get("generation", 1)
    return Line(uid_of(model), str(generation), MODEL_ALIAS, f"ref:{name_of(model)}")


@dataclass(frozen=True, slots=True)
class ReadSchedule:
    """A StagingSchedule, and its windows as far as they can be understood."""

    subject: Subject
    schedule: StagingSchedule | None
    windows: tuple[tuple[Window, windows.Window], ...] = ()
    problems: tuple[Problem, ...] = ()
    chance: float = 1.0
    """That its windows are used, by the last ten of them."""

    @property
    def generation(self) -> int:
        """Of its spec: another one asks anew what a tag is."""
        return (self.schedule.metadata.generation if self.schedule is not None else None) or 1


@dataclass(frozen=True, slots=True)
class Around:
    """What a schedule refers to."""

    models: Mirror
    workloads: Workloads
    sites: Sites
    priorities: Mapping[str, int]
    remembered: Remembered


def read_schedule(seen: Object) -> ReadSchedule:
    """Never fails: what is wrong is among the problems."""
    subject = Subject.of(STAGING_SCHEDULES, seen)
    try:
        schedule = read(StagingSchedule, {name: value for name, value in seen.items() if name != "status"})
    except Invalid as exc:
        return ReadSchedule(subject, None, problems=(Problem("Ready", "Invalid", str(exc)),))
    made, problems = list[tuple[Window, windows.Window]](), list[Problem]()
    for window in schedule.spec.windows:
        try:
            made.append((window, windows.spoken(window)))
        except ValueError as exc:
            problems.append(Problem("Ready", "BadWindow", f"window {window.name}: {exc}"))
    return ReadSchedule(subject, schedule, tuple(made), tuple(problems), chance_of(seen))


def chance_of(seen: Object) -> float:
    """Few windows prove little: eight of ten are taken for granted (research: Beta(used + 8, unused + 2)). The one that is open
    may be used yet."""
    status = seen.get("status")
    history = status.get("history") if isinstance(status, Mapping) else None
    past = [one for one in history[1:] if isinstance(one, Mapping)] if isinstance(history, list) else []
    if not past:
        return 1.0
    return (sum(one.get("used") is True for one in past) + 8) / (len(past) + 10)


def declaration_of(known: ReadSchedule, around: Around, now: float) -> Declaration:
    """As things are now."""
    if known.schedule is None:
        return Declaration(known.subject, ToldBy.STAGING_SCHEDULE, problems=known.problems)
    spec, namespace = known.schedule.spec, known.subject.namespace or ""
    problems = list(known.problems)
    about_places = list[Problem]() if spec.suspend else problems
    target = _target(known.schedule, namespace, around.workloads, about_places)
    capacity = _capacity(known.schedule, target, about_places)
    names = _names(known.schedule, around.sites, about_places, is_awaited=capacity is not None)
    asked = list[Asked]()
    for artifact in spec.artifacts:
        if artifact.type is DemandType.IMAGE:
            asked += _images(artifact, known, target, around.sites.by_architecture(names), problems)
        elif (one := _asked(artifact, namespace, around.models, problems)) is not None:
            asked.append(one)
    if spec.suspend:
        problems.append(Problem("Ready", "Suspended", "what is warm stays, nothing is begun"))
        return Declaration(known.subject, ToldBy.STAGING_SCHEDULE, problems=tuple(problems), keeps=tuple(asked))
    priority = _priority(spec.priority_class_name, target, around.priorities, problems)
    wants = list[Want]()
    if target is not None or (spec.target_ref is None and (names or capacity is not None)):
        for window, when in known.windows:
            place, count = _place(spec.nodes.count if spec.nodes else None, window.replicas, target, names)
            openings = around.remembered.at(known.subject.uid, window.name, when, now)
            if openings.is_joined:
                problems.append(
                    Problem("Window", "AlwaysOpen", f"window {window.name} begins again before it ends: it is always open")
                )
            if count > 0:
                wants.append(Want(window.name, openings, tuple(asked), place, count))
    return Declaration(
        known.subject,
        ToldBy.STAGING_SCHEDULE,
        tuple(wants),
        tuple(problems),
        priority,
        chance=known.chance,
        capacity=capacity,
    )


def _asked(artifact: ScheduledArtifact, namespace: str, models: Mirror, problems: list[Problem]) -> Asked | None:
    if artifact.model_ref is None:
        return None
    found = models.get(artifact.model_ref.name, namespace)
    if found is None:
        message = f"artifact {artifact.name}: there is no StagedModel {artifact.model_ref.name} in this namespace; create it"
        problems.append(Problem("Resolved", "NoSuchModel", message))
        return None
    return Asked(artifact.name, Question(namespace, model_line(found)))


def _images(
    artifact: ScheduledArtifact,
    known: ReadSchedule,
    target: Workload | None,
    architectures: Iterable[str],
    problems: list[Problem],
) -> list[Asked]:
    """One for each architecture that its nodes have: an image is another there."""
    ref = ref_of(artifact.image or "")
    if ref is None:
        message = f"artifact {artifact.name}: {artifact.image!r} is no image; write it as a container does"
        problems.append(Problem("Resolved", "NoImage", message))
        return []
    secrets = target.facts.images.secrets if target is not None else ()
    if artifact.pull_secret_ref is not None:
        secrets = (artifact.pull_secret_ref.name,)
    namespace, uid = known.subject.namespace or "", known.subject.uid
    return [
        Asked(artifact.name, image_question(namespace, uid, str(known.generation), ref, one, secrets), one)
        for one in architectures
    ]


def _target(schedule: StagingSchedule, namespace: str, workloads: Workloads, problems: list[Problem]) -> Workload | None:
    ref = schedule.spec.target_ref
    if ref is None:
        return None
    found = workloads.find(ref.kind, namespace, ref.name)
    if found is None:
        message = f"there is no {ref.kind} {ref.name} in this namespace; targetRef takes a Deployment, StatefulSet or CronJob"
        problems.append(Problem("Feasible", "NoTarget", message))
    return found


def _capacity(schedule: StagingSchedule, target: Workload | None, problems: list[Problem]) -> Shape | None:
    """None: it asks for no nodes, or nobody can tell for which."""
    spec = schedule.spec
    if spec.capacity is None or spec.capacity.type is not CapacityType.CAPACITY_BUFFER:
        return None
    boot_s = None if spec.capacity.boot_time is None else duration_s(spec.capacity.boot_time)
    if spec.target_ref is not None:
        if target is None:
            return None  # told as NoTarget
        if target.subject.resource in (DEPLOYMENTS, STATEFUL_SETS):
            return Shape(spec.target_ref, None, boot_s)
        message = "capacity takes a Deployment or StatefulSet as targetRef, or nodes with count: no nodes are asked for"
    elif spec.nodes is not None and spec.nodes.count is not None:
        return Shape(None, spec.nodes.selector, boot_s)
    else:
        message = "capacity needs to know how many: write nodes.count, or targetRef"
    problems.append(Problem("Ready", NO_SHAPE, message))
    return None


def _names(schedule: StagingSchedule, sites: Sites, problems: list[Problem], *, is_awaited: bool) -> frozenset[str] | None:
    """`is_awaited`: nodes are asked for, so that it is no mistake that there are none."""
    if schedule.spec.nodes is None:
        return None
    found = sites.selected(schedule.spec.nodes.selector)
    if not found.is_any and not is_awaited:
        problems.append(Problem("Feasible", "NoNode", "no node matches nodes.selector: compare it with the nodes' labels"))
    return found.names


def _place(copies: int | None, replicas: int | None, target: Workload | None, names: frozenset[str] | None) -> tuple[Place, int]:
    if target is not None:
        count = target.replicas if replicas is None else replicas
        return Place(target.facts.needs, names, target.uid, copies), count
    count = replicas if replicas is not None else copies if copies is not None else len(names or ())
    return Place(None, names, "", count), count


def _priority(name: str | None, target: Workload | None, priorities: Mapping[str, int], problems: list[Problem]) -> int:
    if name is not None and name not in priorities:
        problems.append(Problem("Ready", "NoPriorityClass", f"there is no PriorityClass {name}: it counts as 0"))
    return priorities.get(name or (target.priority_class if target is not None else ""), 0)
