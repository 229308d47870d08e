"""What a StagingSchedule says of itself: its next window, what became of the last ten, and four conditions. Pure.

Resolved    every model is known; else the broker's refusal
Feasible    there are nodes with room for it, within the walls
OnTime      the next window will be met, as far as can be foreseen
Ready       all three, nothing is suspended or misspelt, and what is open now is warm
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prestage.api.conditions import summed, with_condition
from prestage.api.schedules import NextWindow, PastWindow, ScheduledState, StagingSchedule, StagingScheduleStatus
from prestage.api.values import Condition, ConditionStatus, NodeCounts
from prestage.control.capacity.foresight import Foresight
from prestage.control.demand.declared import EACH_MAX, OBJECTS_MAX, Declaration, Due
from prestage.control.planning.board import Posted
from prestage.control.planning.lateness import is_late, sentence
from prestage.control.planning.outcomes import Outcomes
from prestage.control.planning.statuses import Spread, least_far
from prestage.kube.ports import Object
from prestage.planner.demands import Demand, Trust
from prestage.planner.plans import Outcome, Reason, Verdict

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
HISTORY_MAX = 10
_CALM = 0.05
"""A prediction that moved by less than this share of what is left is not written again."""
_CALM_S = 2.0
_Said = tuple[ConditionStatus, str, str]


@dataclass(frozen=True, slots=True)
class Planned:
    """One demand of a schedule, with what the plan says of it. `verdict` None: its model is not known yet."""

    due: Due
    demand: Demand | None
    verdict: Verdict | None
    is_open: bool = False
    """Its deadline still counts."""
    awaited: float | None = None
    """When it is warm on nodes that are asked for; None: it lacks none."""

    @property
    def is_late(self) -> bool:
        """Known to be late, or short of something."""
        return self.verdict is not None and is_late(self.due, self.verdict, is_open=self.is_open, awaited=self.awaited)

    @property
    def ready_at(self) -> float | None:
        """None: nobody can tell."""
        return self.awaited if self.awaited is not None or self.verdict is None else self.verdict.ready_at

    @property
    def said(self) -> str:
        """Why it is late."""
        if self.verdict is None or self.demand is None:
            return ""
        return sentence(self.due, self.demand, self.verdict, self.awaited)

    @property
    def is_warm(self) -> bool:
        """Where it should be."""
        return self.verdict is not None and self.verdict.reason is Reason.WARM


@dataclass(frozen=True, slots=True)
class View:
    """The last plan as one schedule sees it."""

    posted: Posted
    demands: Mapping[str, Demand]
    spreads: Mapping[str, Spread]
    used: frozenset[tuple[str, str]]
    """Namespace and artifact of what pods have on their nodes."""
    outcomes: Outcomes
    foresight: Foresight


def view_of(posted: Posted, spreads: Mapping[str, Spread], outcomes: Outcomes, foresight: Foresight | None = None) -> View:
    """Made once for all schedules."""
    demands = {one.id: one for one in posted.collected.demands}
    used = frozenset((one.namespace, one.artifact) for one in demands.values() if one.trust is Trust.BOUND)
    return View(posted, demands, spreads, used, outcomes, foresight or Foresight())


def schedule_status(
    schedule: StagingSchedule, declaration: Declaration, dues: Sequence[Due], view: View, now: datetime.datetime
) -> StagingScheduleStatus:
    """What it should say; equal to what it says where nothing is new. `dues`: its own."""
    before = schedule.status or StagingScheduleStatus()
    verdicts = view.posted.plan.verdicts
    uid = declaration.subject.uid
    planned = [
        Planned(
            due,
            view.demands.get(due.id),
            verdicts.get(due.id),
            view.outcomes.is_open(uid, due.opening.begins),
            view.foresight.awaited.get(due.id),
        )
        for due in dues
    ]
    seconds = now.timestamp()
    coming = _next(planned, declaration, before.next, seconds)
    asked = view.foresight.said(declaration, seconds)
    conditions = _conditions(schedule, declaration, planned, view, now)
    if asked is not None:
        status, reason, message = asked[0]
        generation = schedule.metadata.generation
        conditions = list(
            with_condition(conditions, "Capacity", status, reason=reason, message=message, now=now, generation=generation)
        )
    return StagingScheduleStatus(
        observed_generation=schedule.metadata.generation,
        next=coming,
        artifacts=_artifacts(schedule, dues, view) or None,
        history=_history(schedule, planned, before, view, seconds) or None,
        capacity=None if asked is None else asked[1],
        conditions=conditions,
    )


def dues_by_uid(dues: Iterable[Due]) -> dict[str, list[Due]]:
    """By who said it."""
    found: dict[str, list[Due]] = {}
    for due in dues:
        found.setdefault(due.declaration.subject.uid, []).append(due)
    return found


def is_told(seen: Object) -> bool:
    """Whether its status says already that there are too many."""
    status = seen.get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    found = conditions if isinstance(conditions, list) else []
    return any(isinstance(one, Mapping) and one.get("type") == "Ready" and one.get("reason") == "TooMany" for one in found)


def too_many_status(schedule: StagingSchedule, now: datetime.datetime) -> StagingScheduleStatus:
    """Of one that is not looked at, for its namespace has too many."""
    before = schedule.status or StagingScheduleStatus()
    conditions: Sequence[Condition] = before.conditions or ()
    message = f"the namespace has more than {OBJECTS_MAX} of them, and the oldest ones count: delete some"
    for kind in ("Feasible", "Ready"):
        conditions = with_condition(
            conditions, kind, FALSE, reason="TooMany", message=message, now=now, generation=schedule.metadata.generation
        )
    return StagingScheduleStatus(
        observed_generation=schedule.metadata.generation, history=before.history, conditions=list(conditions)
    )


def _next(planned: Iterable[Planned], declaration: Declaration, before: NextWindow | None, now: float) -> NextWindow | None:
    """Of the open one that is not warm yet, else of the next one, also where that is beyond the horizon."""
    timed = [one for one in planned if one.due.ready_by is not None]
    late = [one for one in timed if one.due.opening.begins <= now and not one.is_warm]
    ahead = [want.openings.next for want in declaration.wants if want.openings.next is not None]
    if late:
        begins = min(one.due.opening.begins for one in late)
    elif ahead:
        begins = min(opening.begins for opening in ahead)
    else:
        return None
    same = [one for one in timed if one.due.opening.begins == begins]
    nexts = [(want.openings.next, want.window) for want in declaration.wants]
    name = same[0].due.want.window if same else next(name for opening, name in nexts if opening and opening.begins == begins)
    known = before if before is not None and before.ready_by.timestamp() == begins and before.window == name else None
    return _predicted(name, begins, same, known, now)


def _predicted(name: str, begins: float, planned: Sequence[Planned], before: NextWindow | None, now: float) -> NextWindow:
    verdicts = [one.verdict for one in planned if one.verdict is not None]
    starts = [verdict.start_by for verdict in verdicts if verdict.start_by is not None]
    readies = [one.ready_at for one in planned if one.verdict is not None]
    ready = None if not readies or None in readies or len(verdicts) < len(planned) else max(filter(None, readies), default=None)
    told = before.predicted_ready_at.timestamp() if before is not None and before.predicted_ready_at is not None else None
    if ready is not None and told is not None:
        is_calm = abs(ready - told) <= max(_CALM_S, _CALM * (ready - now))
        ready = told if is_calm or (planned and all(one.is_warm for one in planned) and told <= now) else ready
    worst = max((one for one in planned if one.is_late), key=_lateness, default=None)
    message = "" if worst is None else worst.said
    late = None if ready is None else max(0.0, ready - begins)
    is_said = before is not None and bool(before.message) is bool(message) and ready is not None and told == ready
    calm = before.message if before is not None and is_said else message
    return NextWindow(
        window=name,
        ready_by=_moment(begins),
        start_at=_moment(min(starts)) if starts else None,
        predicted_ready_at=None if ready is None else _moment(ready),
        late_by=None if late is None else f"{math.ceil(late)}s",
        message=calm[:1024],
    )


def _lateness(one: Planned) -> float:
    verdict = one.verdict
    if verdict is None:
        return 0.0
    if one.awaited is not None:
        return max(0.0, one.awaited - (one.due.ready_by or one.awaited))
    return math.inf if verdict.outcome is Outcome.IMPOSSIBLE or verdict.late_by_s is None else verdict.late_by_s


def _artifacts(schedule: StagingSchedule, dues: Sequence[Due], view: View) -> list[ScheduledState]:
    known = view.posted.collected.known
    digests: dict[str, set[str]] = {}
    for due in dues:  # an image is one of each architecture
        if (found := known.get(due.asked.question.line)) is not None:
            digests.setdefault(due.asked.name, set()).add(found.artifact)
    made = list[ScheduledState]()
    for artifact in schedule.spec.artifacts:
        there = [spread for one in digests.get(artifact.name, ()) if (spread := view.spreads.get(one)) is not None]
        counts = NodeCounts(
            warm=sum(one.warm for one in there),
            staging=sum(one.staging for one in there),
            wanted=sum(one.wanted for one in there),
        )
        step = least_far(one.step for one in there)
        made.append(ScheduledState(name=artifact.name, step=step, nodes=counts if there else None))
    return made


def _history(
    schedule: StagingSchedule, planned: Sequence[Planned], before: StagingScheduleStatus, view: View, now: float
) -> list[PastWindow]:
    """A window enters when it begins. One that began before the schedule was made does not."""
    made = {one.ready_by.timestamp(): one for one in before.history or ()}
    created = schedule.metadata.creation_timestamp
    uid = planned[0].due.declaration.subject.uid if planned else ""
    opened: dict[float, list[Planned]] = {}
    for one in planned:
        begins = one.due.opening.begins
        if one.due.ready_by is not None and begins <= now and (created is None or created.timestamp() <= begins):
            opened.setdefault(begins, []).append(one)
    for begins, ones in opened.items():
        entry = made.get(begins) or PastWindow(ready_by=_moment(begins))
        ready_at, late_by = entry.ready_at, entry.late_by
        if ready_at is None and all(one.is_warm for one in ones):
            warm = _warm_since(uid, begins, before.next, view.outcomes, now)
            ready_at, late_by = _moment(warm), f"{math.ceil(max(0.0, warm - begins))}s"
        is_used = entry.used or any(
            (one.demand.namespace, one.demand.artifact) in view.used for one in ones if one.demand is not None
        )
        made[begins] = PastWindow(ready_by=entry.ready_by, ready_at=ready_at, late_by=late_by, used=is_used)
    return [made[begins] for begins in sorted(made, reverse=True)][:HISTORY_MAX]


def _warm_since(uid: str, begins: float, before: NextWindow | None, outcomes: Outcomes, now: float) -> float:
    """By what was seen; where nobody looked when it began (the planner was away), by what the one before foretold."""
    since = outcomes.warm_since(uid, begins)
    seen = now if since is None else since
    if outcomes.saw_begin(uid, begins) or before is None or before.predicted_ready_at is None:
        return seen
    foretold = before.predicted_ready_at.timestamp()
    return min(seen, foretold) if before.ready_by.timestamp() == begins and foretold <= begins else seen


def _conditions(
    schedule: StagingSchedule, declaration: Declaration, planned: Sequence[Planned], view: View, now: datetime.datetime
) -> list[Condition]:
    before = schedule.status.conditions if schedule.status is not None else None
    conditions: Sequence[Condition] = before or ()
    parts: dict[str, _Said] = {
        "Resolved": _resolved(declaration, planned, view),
        "Feasible": _feasible(declaration, planned, view),
        "OnTime": _on_time(planned),
    }

    def say(kind: str, said: _Said) -> None:
        nonlocal conditions
        status, reason, message = said
        conditions = with_condition(
            conditions, kind, status, reason=reason, message=message, now=now, generation=schedule.metadata.generation
        )

    for kind, said in parts.items():
        say(kind, said)
    say("Ready", _ready(declaration, planned, conditions, now.timestamp()))
    return list(conditions)


def _problem(declaration: Declaration, *conditions: str) -> _Said | None:
    found = [one for one in declaration.problems if one.condition in conditions]
    return (FALSE, found[0].reason, "; ".join(one.message for one in found)[:1024]) if found else None


def _resolved(declaration: Declaration, planned: Sequence[Planned], view: View) -> _Said:
    if (said := _problem(declaration, "Resolved")) is not None:
        return said
    for one in planned:
        failure = view.posted.failures.get(one.due.asked.question.line)
        if failure is not None:
            return FALSE, failure.code or str(failure.error_class), f"artifact {one.due.asked.name}: {failure.text}"
    if any(one.demand is None for one in planned):
        return UNKNOWN, "Resolving", "the broker is being asked"
    return TRUE, "Resolved", ""


def _feasible(declaration: Declaration, planned: Sequence[Planned], view: View) -> _Said:
    if (said := _problem(declaration, "Feasible")) is not None:
        return said
    if (left := view.posted.collected.cut.get(declaration.subject.uid, 0)) > 0:
        message = f"{left} of its demands are left out: the namespace has more than {EACH_MAX}, or all together too many"
        return FALSE, "TooMany", message
    for one in planned:
        verdict = one.verdict
        if verdict is not None and one.demand is not None and verdict.outcome is Outcome.IMPOSSIBLE and one.awaited is None:
            return FALSE, str(verdict.reason), one.said
    if any(one.awaited is not None for one in planned):
        return TRUE, "NodesAwaited", "nodes are asked for, and counted on"
    return (UNKNOWN, "Resolving", "") if any(one.verdict is None for one in planned) else (TRUE, "Feasible", "")


def _on_time(planned: Sequence[Planned]) -> _Said:
    late = [one for one in planned if one.is_late]
    if late:
        worst = max(late, key=_lateness)
        assert worst.verdict is not None
        return FALSE, "Booting" if worst.awaited is not None else str(worst.verdict.reason), worst.said
    ahead = [one for one in planned if one.is_open]
    unknown = any(one.verdict is None or (one.verdict.outcome is not Outcome.ON_TIME and one.awaited is None) for one in ahead)
    return (UNKNOWN, "NotKnown", "sizes, rates or nodes are not known yet") if unknown else (TRUE, "OnTime", "")


def _ready(declaration: Declaration, planned: Sequence[Planned], conditions: Sequence[Condition], now: float) -> _Said:
    if (said := _problem(declaration, "Ready")) is not None:
        return said
    status, reason, message = summed(conditions, ("Resolved", "Feasible", "OnTime"))
    if status is not TRUE:
        return status, reason, message
    opened = [one for one in planned if one.due.opening.begins <= now]
    if any(not one.is_warm for one in opened):
        warm = sum(one.is_warm for one in opened)
        return FALSE, "PartlyWarm", f"{warm} of the {len(opened)} artifacts of open windows are warm where they should be"
    return TRUE, "Warm" if opened else "Scheduled", ""


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(round(min(max(seconds, 0.0), 2.5e11)), datetime.UTC)
