"""A rehearsal as lines for people and as JSON for programs. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping

from prestage.api.nodes import EntryType
from prestage.cacher.quantities import human_bytes, human_seconds
from prestage.control.rehearsal.rehearsal import Played
from prestage.planner.demands import Demand
from prestage.planner.plans import Fix, Remedy, Verdict

_FIXES: Mapping[Remedy, str] = {
    Remedy.NOTICE: "to say it {seconds} earlier",
    Remedy.RATE: "{bytes}/s through the link{node}",
    Remedy.ORIGIN_RATE: "{bytes}/s from the origins together",
    Remedy.ROOM: "{bytes} more room{node}",
    Remedy.NODES: "{amount:.0f} more nodes on which it may run",
    Remedy.QUOTA: "{bytes} more for its namespace",
    Remedy.SOURCE: "another source, or credentials for it",
}


def shown(played: Played) -> Iterator[str]:
    """For people."""
    rehearsal = played.rehearsal
    width = max([12, *(len(line.node) for line in played.lines)])
    yield f"{'moment':20} {'node':{width}}  what"
    for line in played.lines:
        note = f"  {line.note}" if line.note else ""
        yield f"{clock(line.at)}  {line.node or '-':{width}}  {line.deed:8} {rehearsal.name(line.artifact)}{note}"
    yield ""
    for demand, verdict in played.judged():
        yield f"{wanted(played, demand)}: {said(verdict)}"
    for note in notes(played):
        yield f"note: {note}"


def notes(played: Played) -> Iterator[str]:
    """What could not be looked at, and how far it was played where that was not as far as asked."""
    yield from played.rehearsal.notes
    if not played.is_whole:
        come_to = clock(played.until)
        yield f"played until {come_to} only, for it took too long; what is said of demands holds; ask for less with --ahead"


def wanted(played: Played, demand: Demand) -> str:
    """What, and for whom."""
    told = played.rehearsal.told.get(demand.id)
    name = played.rehearsal.name(demand.artifact)
    return f"{name} in {demand.namespace}" if told is None else f"{name} for {told}"


def said(verdict: Verdict) -> str:
    """One line: whether, where, why, what would fix it."""
    where = f" on {', '.join(verdict.nodes)}" if verdict.nodes else ""
    parts = [f"{verdict.outcome} ({verdict.reason}){where}"]
    if verdict.start_by is not None:
        parts.append(f"latest start {clock(verdict.start_by)}")
    if verdict.ready_at is not None:
        parts.append(f"warm {clock(verdict.ready_at)}")
    if verdict.late_by_s:
        parts.append(f"late by {human_seconds(verdict.late_by_s)}")
    if verdict.missing:
        parts.append(f"{verdict.missing} copies found no node")
    if verdict.fix is not None:
        parts.append(f"it would help: {fixed(verdict.fix)}")
    return "; ".join(parts)


def fixed(fix: Fix) -> str:
    """What would help."""
    amount = fix.amount or 0.0
    node = f" of {fix.node}" if fix.node else ""
    return _FIXES[fix.remedy].format(seconds=human_seconds(amount), bytes=human_bytes(amount), node=node, amount=amount)


def clock(moment: float) -> str:
    """In UTC, to the second."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def as_json(played: Played) -> dict[str, object]:
    """For programs: docs/planning.md."""
    rehearsal = played.rehearsal
    kinds = rehearsal.kinds()
    timeline = [
        {
            "at": _iso(one.at),
            "node": one.node or None,
            "what": str(one.deed),
            "type": str(kinds.get(one.artifact, EntryType.MODEL)),
            "model": rehearsal.name(one.artifact),
            "note": one.note or None,
        }
        for one in played.lines
    ]
    judged = [_judged(played, demand, verdict) for demand, verdict in played.judged()]
    return {"now": _iso(rehearsal.now), "timeline": timeline, "demand": judged, "notes": list(notes(played))}


def _judged(played: Played, demand: Demand, verdict: Verdict) -> dict[str, object]:
    return {
        "type": str(demand.kind),
        "model": played.rehearsal.name(demand.artifact),
        "artifact": demand.artifact,
        "namespace": demand.namespace,
        "for": played.rehearsal.told.get(demand.id),
        "readyBy": _iso(demand.ready_by),
        "outcome": str(verdict.outcome),
        "reason": str(verdict.reason),
        "nodes": list(verdict.nodes),
        "startBy": _iso(verdict.start_by),
        "readyAt": _iso(verdict.ready_at),
        "lateBySeconds": verdict.late_by_s,
        "missing": verdict.missing,
        "fix": None if verdict.fix is None else {"remedy": str(verdict.fix.remedy), "amount": verdict.fix.amount},
    }


def _iso(moment: float | None) -> str | None:
    return None if moment is None else clock(moment) + "Z"
