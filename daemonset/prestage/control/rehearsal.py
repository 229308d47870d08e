"""`prestage plan --dry-run -f fleet.yaml`: the planner on what a file says, without a cluster. docs/planning.md has the form."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import click
import msgspec
import yaml

from prestage.api.nodes import State
from prestage.api.texts import duration_s, quantity_bytes
from prestage.cacher.errors import Misconfigured
from prestage.cacher.quantities import human_bytes, human_seconds
from prestage.planner.demands import Demand, ToldBy, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plans import Fix, Outcome, Plan, Remedy, Verdict
from prestage.planner.rules import Rules
from prestage.planner.timeline import Line, played

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]


class _Form(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class NodeForm(_Form, frozen=True, kw_only=True):
    """A node. `rate`: bytes a second that nine of ten stages beat."""

    name: _Name
    budget: int | str
    rate: int | str | None = None
    warm: list[_Name] = []
    is_leaving: bool = False


class DemandForm(_Form, frozen=True, kw_only=True):
    """What will be needed. `bound_to`: by pods there, now; else a window. `nodes`: all when absent."""

    model: _Name
    ready_by: str | None = None
    duration: str | None = None
    copies: _Count = 1
    nodes: list[_Name] | None = None
    bound_to: list[_Name] | None = None
    namespace: _Name = "default"
    priority: _Count = 0
    gpus: _Count = 1


class RehearsalForm(_Form, frozen=True, kw_only=True):
    """The file. `now`: the clock's when absent. `models`: sizes."""

    models: dict[_Name, int | str]
    nodes: list[NodeForm]
    demand: list[DemandForm]
    now: str | None = None
    origin_bytes_per_second: int | str | None = None


class Rehearsal(msgspec.Struct, frozen=True):
    """As the planner takes it."""

    demands: tuple[Demand, ...]
    nodes: tuple[NodeState, ...]
    now: float
    rules: Rules


def read_rehearsal(text: str, name: str, clock: float) -> Rehearsal:
    """`name`: for what is wrong with it."""
    try:
        raw = yaml.BaseLoader(text).get_single_data()  # texts only: a moment is read here, with its zone
        if isinstance(raw, Mapping) and isinstance(raw.get("models"), list):
            raise ValueError("this is the file of `prestage node --standalone`: a rehearsal needs sizes and nodes too")
        form = msgspec.convert(raw, RehearsalForm, strict=False)
        now = clock if form.now is None else _moment(form.now, clock)
        origin = form.origin_bytes_per_second
        return Rehearsal(
            tuple(_demands(form, now)),
            tuple(_nodes(form)),
            now,
            Rules(peers=False, origin_bytes_per_s=None if origin is None else float(quantity_bytes(origin)) or None),
        )
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as exc:
        raise Misconfigured(f"{name}: {exc}", hint="the form is in docs/planning.md, `Rehearsal`") from exc


def _nodes(form: RehearsalForm) -> Iterator[NodeState]:
    names = [one.name for one in form.nodes]
    if len(set(names)) < len(names):
        raise ValueError("two nodes have one name: give each its own")
    for one in form.nodes:
        _known(one.warm, form.models, "model")
        rate = None if one.rate is None else float(quantity_bytes(one.rate)) or None
        held = dict.fromkeys(one.warm, Held(State.WARM))
        budget = quantity_bytes(one.budget)
        yield NodeState(one.name, one.name, budget, rate_bytes_per_s=rate, is_leaving=one.is_leaving, held=held)


def _demands(form: RehearsalForm, now: float) -> Iterator[Demand]:
    sizes = {name: quantity_bytes(size) for name, size in form.models.items()}
    every = [one.name for one in form.nodes]
    for number, one in enumerate(form.demand):
        _known([one.model], sizes, "model")
        _known([*(one.nodes or ()), *(one.bound_to or ())], every, "node")
        begins = None if one.ready_by is None else _moment(one.ready_by, now)
        lasts = None if one.duration is None else duration_s(one.duration)
        bound = dict.fromkeys(one.bound_to or (), 1)
        yield Demand(
            f"{number} {one.model}",
            one.model,
            sizes[one.model],
            one.namespace,
            Trust.BOUND if bound else Trust.DECLARED,
            bound,
            frozenset(one.nodes if one.nodes is not None else every) | bound.keys(),
            ready_by=begins,
            until=None if lasts is None else (now if begins is None else begins) + lasts,
            source=ToldBy.POD if bound else ToldBy.STAGING_SCHEDULE,
            copies=None if bound else one.copies,
            gpus=one.gpus,
            priority=one.priority,
        )


def _known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    unknown = set(names) - set(known)
    if unknown:
        raise ValueError(f"{what} {min(unknown)!r} is not in the file: add it, or correct the name")


def _moment(text: str, now: float) -> float:
    """`+90m` after now, or a time with a zone."""
    if text.startswith("+"):
        return now + duration_s(text[1:])
    try:
        read = datetime.datetime.fromisoformat(text)
        if read.tzinfo is None:
            raise ValueError
        return read.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is no moment: write +90m, or 2026-11-27T08:00:00Z") from None


def shown(read: Rehearsal, plan: Plan, lines: Iterable[Line]) -> Iterator[str]:
    """For people."""
    yield "moment               node          what"
    for line in lines:
        yield f"{_clock(line.at)}  {line.node or '-':12}  {line.deed:8} {line.artifact}{'  ' + line.note if line.note else ''}"
    yield ""
    for one in read.demands:
        yield f"{one.artifact} in {one.namespace}: {said(plan.verdicts[one.id])}"


def said(verdict: Verdict) -> str:
    """One line: whether, where, why, what would fix it."""
    where = f" on {', '.join(verdict.nodes)}" if verdict.nodes else ""
    parts = [f"{verdict.outcome} ({verdict.reason}){where}"]
    if verdict.start_by is not None:
        parts.append(f"latest start {_clock(verdict.start_by)}")
    if verdict.ready_at is not None:
        parts.append(f"warm {_clock(verdict.ready_at)}")
    if verdict.late_by_s:
        parts.append(f"late by {human_seconds(verdict.late_by_s)}")
    if verdict.missing:
        parts.append(f"{verdict.missing} copies found no node")
    if verdict.fix is not None:
        parts.append(f"it would help: {_fixed(verdict.fix)}")
    return "; ".join(parts)


_FIXES: Mapping[Remedy, str] = {
    Remedy.NOTICE: "to say it {seconds} earlier",
    Remedy.RATE: "{bytes}/s through the link{node}",
    Remedy.ORIGIN_RATE: "{bytes}/s from the origins together",
    Remedy.ROOM: "{bytes} more in the store{node}",
    Remedy.NODES: "{amount:.0f} more nodes on which it may run",
    Remedy.QUOTA: "{bytes} more for its namespace",
    Remedy.SOURCE: "another source, or credentials for it",
}


def _fixed(fix: Fix) -> str:
    amount = fix.amount or 0.0
    node = f" of {fix.node}" if fix.node else ""
    return _FIXES[fix.remedy].format(seconds=human_seconds(amount), bytes=human_bytes(amount), node=node, amount=amount)


def _clock(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json(read: Rehearsal, plan: Plan, lines: Iterable[Line]) -> dict[str, object]:
    def iso(moment: float | None) -> str | None:
        return None if moment is None else _clock(moment) + "Z"

    verdicts = [(one, plan.verdicts[one.id]) for one in read.demands]
    return {
        "now": iso(read.now),
        "timeline": [
            {"at": iso(one.at), "node": one.node or None, "what": str(one.deed), "model": one.artifact, "note": one.note or None}
            for one in lines
        ],
        "demand": [
            {
                "model": one.artifact,
                "namespace": one.namespace,
                "outcome": str(verdict.outcome),
                "reason": str(verdict.reason),
                "nodes": list(verdict.nodes),
                "startBy": iso(verdict.start_by),
                "readyAt": iso(verdict.ready_at),
                "lateBySeconds": verdict.late_by_s,
                "missing": verdict.missing,
                "fix": None if verdict.fix is None else {"remedy": str(verdict.fix.remedy), "amount": verdict.fix.amount},
            }
            for one, verdict in verdicts
        ],
    }


@click.command()
@click.option("--dry-run", is_flag=True, required=True, help="Nothing is staged: say so.")
@click.option("-f", "--file", "file", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(dry_run: bool, file: Path, as_json: bool) -> None:
    """What the planner would do with the demand of a file: the timeline, what will be late, and what would fix it.

    Exits with 1 where something will be late or is impossible.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"cannot read {file}: {exc}", hint="name a YAML file") from exc
    read = read_rehearsal(text, str(file), time.time())
    made, lines = played(read.demands, read.nodes, read.now, rules=read.rules)
    click.echo(json.dumps(_json(read, made, lines)) if as_json else "\n".join(shown(read, made, lines)))
    if any(verdict.outcome is not Outcome.ON_TIME for verdict in made.verdicts.values()):
        raise SystemExit(1)
