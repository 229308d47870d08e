"""What Artifacts say of access (broker/rechecking.py), for statuses, events and the plan. Pure.

revoked                    nothing new is staged for who waits; what runs, and what is warm, stays
revoked, onRevoked: Evict  nothing is kept for it either, and nodes let go of it first
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from prestage.api.artifacts import AccessState, SourceAccess
from prestage.api.models import OnRevoked
from prestage.api.nodes import Action
from prestage.api.values import ConditionStatus
from prestage.control.access import revoked
from prestage.control.broker.refusals import No
from prestage.control.broker.sources import named_by, read_wish
from prestage.control.demand.collecting import Collected
from prestage.control.demand.records import Known, Line
from prestage.control.demand.schedules import model_line
from prestage.kube.ports import Object, namespace_of
from prestage.planner.demands import Demand, Trust
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Assignment, Plan
from prestage.planner.values import Use

STALE: Final = datetime.timedelta(days=2)
"""Proved no more for so long, and not refused either: nobody can tell."""


def rows_in(artifact: Object | None) -> list[SourceAccess]:
    """As they are recorded; none where nobody looked yet."""
    status = artifact.get("status") if artifact is not None else None
    found = status.get("access") if isinstance(status, Mapping) else None
    try:
        return msgspec.convert(found, list[SourceAccess]) if found else []
    except msgspec.ValidationError:
        return []


def authorized(rows: Sequence[SourceAccess], source: str, now: datetime.datetime) -> tuple[ConditionStatus, str, str]:
    """The condition of a StagedModel that is resolved: `source` is `ref:NAME`."""
    row = next((one for one in rows if one.source == source), None)
    if row is None:
        return ConditionStatus.TRUE, "ResolvedWithOwnCredentials", ""
    last = f"last verified {row.verified_at:%Y-%m-%dT%H:%M:%SZ}" if row.verified_at is not None else "never verified"
    reason, message = row.reason or "NotVerified", f"{last}; {row.message}" if row.message else last
    if row.state is AccessState.REVOKED:
        return ConditionStatus.FALSE, reason, message
    if row.verified_at is None or now - row.verified_at > STALE:
        return ConditionStatus.UNKNOWN, reason, message
    return ConditionStatus.TRUE, "Verified", message


def blocked(artifacts: Iterable[Object], known: Mapping[Line, Known]) -> dict[Line, SourceAccess]:
    """The models of templates, and StagedModels, that may not be mounted anew."""
    gone = dict[tuple[str | None, str], list[SourceAccess]]()
    for seen in artifacts:
        spec, rows = seen.get("spec"), rows_in(seen)
        if isinstance(spec, Mapping) and any(row.state is AccessState.REVOKED for row in rows):
            gone[namespace_of(seen), str(spec.get("digest"))] = rows
    found = dict[Line, SourceAccess]()
    for line, it in known.items() if gone else ():
        rows = gone.get((it.namespace, it.artifact), [])
        if rows and (row := revoked(rows, _source(line.ref, it.namespace))) is not None:
            found[line] = row
    return found


def evicting(models: Iterable[Object], stopped: Mapping[Line, SourceAccess]) -> set[tuple[str, str]]:
    """Owner and source of StagedModels whose access ended and that say Evict."""
    found = set[tuple[str, str]]()
    for seen in models if stopped else ():
        spec, line = seen.get("spec"), model_line(seen)
        if line in stopped and isinstance(spec, Mapping) and spec.get("onRevoked") == OnRevoked.EVICT:
            found.add((namespace_of(seen) or "", stopped[line].source))
    return found


def allowed(collected: Collected, stopped: Mapping[Line, SourceAccess], evicted: set[tuple[str, str]]) -> tuple[Demand, ...]:
    """What is planned for."""
    if not stopped:
        return collected.demands
    return tuple(one for one in collected.demands if _is_allowed(one, collected, stopped, evicted))


def _is_allowed(
    demand: Demand, collected: Collected, stopped: Mapping[Line, SourceAccess], evicted: set[tuple[str, str]]
) -> bool:
    line = collected.lines[demand.id]
    row = stopped.get(line)
    if row is None or demand.trust is Trust.BOUND:
        return True
    return demand.trust is Trust.STANDING and (collected.known[line].namespace, row.source) not in evicted


def worthless(
    uses: Mapping[str, Use], known: Mapping[Line, Known], stopped: Mapping[Line, SourceAccess], evicted: set[tuple[str, str]]
) -> Mapping[str, Use]:
    """`uses` without what goes by onRevoked: that it was started once is no reason to keep it."""
    going = _going(known, stopped, evicted)
    return {artifact: use for artifact, use in uses.items() if artifact not in going} if going else uses


def released(
    plan: Plan,
    nodes: Iterable[NodeState],
    known: Mapping[Line, Known],
    stopped: Mapping[Line, SourceAccess],
    evicted: set[tuple[str, str]],
) -> Plan:
    """What goes by onRevoked, first wherever the plan says something and wants it for nobody."""
    going = _going(known, stopped, evicted)
    if not going:
        return plan
    made = dict(plan.nodes)
    for node in nodes:
        said = made.get(node.name)
        if said is None or not said.assignments:
            continue
        there = {one.artifact for one in said.assignments}
        more = tuple(Assignment(artifact, Action.RELEASE) for artifact in sorted((going & node.held.keys()) - there))
        made[node.name] = replace(said, assignments=(*said.assignments, *more)) if more else said
    return replace(plan, nodes=made)


def _going(known: Mapping[Line, Known], stopped: Mapping[Line, SourceAccess], evicted: set[tuple[str, str]]) -> set[str]:
    return {known[line].artifact for line, row in stopped.items() if (known[line].namespace, row.source) in evicted}


def _source(ref: str, owner: str) -> str:
    try:
        return named_by(read_wish("model", ref, owner))
    except No:
        return ref
