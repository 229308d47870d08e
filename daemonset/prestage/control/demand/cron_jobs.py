"""Workloads that say when: `ready-schedule` of Deployments and StatefulSets, and the next runs of CronJobs. Pure.

A run is wanted from its moment until its pods had time to come: `startingDeadlineSeconds`, at least one and at most ten minutes.
With `concurrencyPolicy: Forbid` a run that meets another one waits for it, so that it is wanted as well.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final

from prestage.api.annotations import ReadySchedule
from prestage.calendar.moments import Reading
from prestage.calendar.windows import Opening, Openings, Window, again
from prestage.control.demand.declared import Asked, Declaration, Place, Problem, Remembered, Want
from prestage.control.demand.records import Line, Question
from prestage.control.demand.workloads import Workload, Workloads
from prestage.kube.ports import Object, uid_of
from prestage.kube.resources import CRON_JOBS
from prestage.planner.demands import ToldBy

WINDOW: Final = "ready"
RUN: Final = "run"
_GRACE_S: Final = (60.0, 120.0, 600.0)
"""Least, where nothing is said, most."""
_DAY: Final = "%Y%m%d"


def ready_window(schedule: ReadySchedule) -> Window:
    """Raises ValueError with what to write instead."""
    return again(schedule.text, schedule.time_zone, schedule.duration_s or 0.0)


def run_window(seen: Object) -> Window | None:
    """Of a CronJob. None: suspended. Raises ValueError: nobody can foretell it."""
    spec = _mapping(seen.get("spec"))
    if spec.get("suspend") is True:
        return None
    zone, deadline = spec.get("timeZone"), spec.get("startingDeadlineSeconds")
    least_s, usual_s, most_s = _GRACE_S
    grace_s = min(most_s, max(least_s, float(deadline))) if isinstance(deadline, int) else usual_s
    text = str(spec.get("schedule", ""))
    return again(text, str(zone) if isinstance(zone, str) else None, grace_s, reading=Reading.CRON_JOB)


def ready_declaration(
    workload: Workload, workloads: Workloads, priorities: Mapping[str, int], remembered: Remembered, now: float
) -> Declaration | None:
    """None: it says no time."""
    if workload.mistakes:
        problems = tuple(Problem("Ready", "BadAnnotation", mistake) for mistake in workload.mistakes)
        return Declaration(workload.subject, ToldBy.READY_SCHEDULE, problems=problems)
    schedule = workload.schedule
    if schedule is None or not workload.facts.models or workload.subject.resource is CRON_JOBS:
        return None
    try:
        window = ready_window(schedule)
    except ValueError as exc:
        problem = Problem("Ready", "BadWindow", f"prestage.dev/ready-schedule: {exc}")
        return Declaration(workload.subject, ToldBy.READY_SCHEDULE, problems=(problem,))
    count = workload.replicas if schedule.replicas is None else schedule.replicas
    openings = remembered.at(workload.uid, WINDOW, window, now)
    problems = ()
    if count == 0:
        message = "it asks for 0 replicas: say prestage.dev/replicas while spec.replicas is 0"
        problems = (Problem("Ready", "NoReplicas", message),)
    return _declared(workload, workloads, priorities, ToldBy.READY_SCHEDULE, WINDOW, openings, count, problems)


def run_declaration(
    seen: Object, workload: Workload, workloads: Workloads, priorities: Mapping[str, int], remembered: Remembered, now: float
) -> Declaration | None:
    """Of a CronJob with models. None: it has none, or is suspended."""
    if not workload.facts.models:
        return None
    try:
        window = run_window(seen)
    except ValueError as exc:
        problem = Problem("Ready", "BadSchedule", f"its next run is not foretold: {exc}")
        return Declaration(workload.subject, ToldBy.CRON_JOB, problems=(problem,))
    if window is None:
        return None
    openings = _not_run(seen, remembered.at(uid_of(seen), RUN, window, now))
    return _declared(workload, workloads, priorities, ToldBy.CRON_JOB, RUN, openings, workload.replicas, ())


def _not_run(seen: Object, openings: Openings) -> Openings:
    """A run that was made speaks for itself."""
    last = _mapping(seen.get("status")).get("lastScheduleTime")
    opened = openings.open
    if opened is None or not isinstance(last, str):
        return openings
    try:
        ran = datetime.datetime.fromisoformat(last.replace("Z", "+00:00"))
    except ValueError:
        return openings
    if ran.tzinfo is None or ran.timestamp() < opened.begins:
        return openings
    return Openings(None, openings.next, openings.changes_at)


def _declared(
    workload: Workload,
    workloads: Workloads,
    priorities: Mapping[str, int],
    source: ToldBy,
    name: str,
    openings: Openings,
    count: int,
    problems: tuple[Problem, ...],
) -> Declaration:
    wants = list[Want]()
    for opening in (openings.open, openings.next) if count else ():
        if opening is None:
            continue
        models = asked(workload, workloads, opening)
        if models is None:
            message = "its newest template has no pods' hash yet: the controller has not made its revision"
            problems = (Problem("Resolved", "NoTemplate", message),)
            break
        only = Openings(
            opening if opening == openings.open else None, opening if opening == openings.next else None, openings.changes_at
        )
        wants.append(Want(name, only, models, Place(workload.facts.needs, None, workload.uid), count))
    return Declaration(workload.subject, source, tuple(wants), problems, priorities.get(workload.priority_class, 0))


def asked(workload: Workload, workloads: Workloads, opening: Opening) -> tuple[Asked, ...] | None:
    """Its models, as its next pods will ask for them. None: their template is not known yet."""
    day = datetime.datetime.fromtimestamp(min(opening.begins, 2e11), datetime.UTC).strftime(_DAY)
    template, facts = workloads.template(workload, day), workload.facts
    if template is None:
        return None
    return tuple(
        Asked(
            model.alias,
            Question(
                facts.namespace,
                Line(template.uid, template.hash, model.alias, model.ref),
                facts.service_account,
                facts.credentials,
            ),
        )
        for model in facts.models
    )


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}
