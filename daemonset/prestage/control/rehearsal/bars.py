"""A rehearsal as rows and bars, before it is drawn. Pure.

A row a node, a bar a transfer on it, a mark where a window begins there. Images of a node, which come beside its models, have a
row of their own, and so has what found no node.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from prestage.api.nodes import EntryType
from prestage.cacher.quantities import human_seconds
from prestage.control.rehearsal.rehearsal import Played
from prestage.control.rehearsal.shown import fixed, wanted
from prestage.planner.demands import Demand, Trust
from prestage.planner.plans import Outcome, Verdict
from prestage.planner.timeline import Deed, Line

NOWHERE: Final = "no node"
_IMAGES: Final = " images"
ROWS_MAX: Final = 40
SENTENCES_MAX: Final = 6
_LEAST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One transfer. `late_from`: since when somebody waits for it; None: nobody does."""

    row: str
    artifact: str
    begins: float
    ends: float
    late_from: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A deadline. `until`: how long it is wanted there. `late_by_s`: inf where it never is."""

    row: str
    artifact: str
    at: float
    until: float
    late_by_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Chart:
    """Between two moments. `hidden`: nodes that have something to do and found no row."""

    begins: float
    ends: float
    rows: tuple[str, ...]
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    title: str
    sentences: tuple[str, ...] = ()
    hidden: int = 0
    idle: int = 0


def chart_of(played: Played) -> Chart:
    """What is worth a row: nodes that fetch or are wanted, late ones first where there are too many."""
    rehearsal = played.rehearsal
    judged = list(played.judged())
    rows_of = _Rows(rehearsal.kinds())
    bars = list(_bars(played.lines, played.until, rows_of))
    warm = _warm(played)
    marks = [
        replace(mark, row=rows_of.of(mark.row, mark.artifact))
        for demand, verdict in judged
        for mark in _marks(played, demand, verdict, warm)
    ]
    bars = [_with_lateness(bar, judged, marks) for bar in bars]
    ends = max([rehearsal.now + _LEAST_S, *(bar.ends for bar in bars), *(mark.at for mark in marks)])
    ends += (ends - rehearsal.now) * 0.05
    names = {bar.row for bar in bars} | {mark.row for mark in marks}
    late = {bar.row for bar in bars if bar.late_from is not None} | {mark.row for mark in marks if mark.late_by_s}
    kept = set(sorted(names - {NOWHERE}, key=lambda name: (name not in late, _natural(name)))[:ROWS_MAX])
    rows = [*sorted(kept, key=_natural), *([NOWHERE] if NOWHERE in names else [])]
    return Chart(
        rehearsal.now,
        ends,
        tuple(rows),
        tuple(bar for bar in bars if bar.row in rows),
        tuple(mark for mark in marks if mark.row in rows),
        _title(judged),
        tuple(_sentences(played, judged)),
        hidden=len(names - set(rows)),
        idle=len({one.name for one in rehearsal.nodes} - set(map(_node_of, names))),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """`kinds`: by artifact."""

    kinds: Mapping[str, EntryType]

    def of(self, node: str, artifact: str) -> str:
        """Where it is shown."""
        is_apart = self.kinds.get(artifact) is EntryType.IMAGE and node != NOWHERE
        return node + _IMAGES if is_apart else node


def _node_of(row: str) -> str:
    return row.removesuffix(_IMAGES)


def _bars(lines: Iterable[Line], until: float, rows: _Rows) -> Iterator[Bar]:
    """From `begins` to `warm` or `stops`; one that goes on at the end of what was played ends there."""
    going = dict[tuple[str, str], Line]()
    for line in lines:
        if line.deed not in (Deed.BEGINS, Deed.STOPS, Deed.WARM):
            continue
        begun = going.pop((line.node, line.artifact), None)
        if begun is not None and begun.at < line.at:
            yield Bar(rows.of(begun.node, begun.artifact), begun.artifact, begun.at, line.at)
        if line.deed is Deed.BEGINS:
            going[line.node, line.artifact] = line
    for begun in going.values():
        yield Bar(rows.of(begun.node, begun.artifact), begun.artifact, begun.at, until)


def _with_lateness(bar: Bar, judged: Iterable[tuple[Demand, Verdict]], marks: Iterable[Mark]) -> Bar:
    """From the first deadline that it does not meet; pods that are there or wait have theirs now."""
    passed = [mark.at for mark in marks if (mark.row, mark.artifact) == (bar.row, bar.artifact) and mark.late_by_s]
    for demand, verdict in judged:
        if demand.trust < Trust.DECLARED and demand.artifact == bar.artifact and _node_of(bar.row) in verdict.nodes:
            passed.append(-math.inf)
    late = [max(bar.begins, at) for at in passed if at < bar.ends]
    return bar if not late else Bar(bar.row, bar.artifact, bar.begins, bar.ends, min(late))


@dataclass(frozen=True, slots=True)
class _Warm:
    """Where an artifact is when: from a transfer's end, or from the beginning, until it has to go."""

    spans: Mapping[tuple[str, str], list[tuple[float, float]]]

    def is_at(self, node: str, artifact: str, moment: float) -> bool:
        return any(begins <= moment < ends for begins, ends in self.spans.get((node, artifact), ()))

    def next_at(self, node: str, artifact: str, moment: float) -> float:
        """inf: it does not come any more."""
        return min((begins for begins, _ in self.spans.get((node, artifact), ()) if begins > moment), default=math.inf)


def _warm(played: Played) -> _Warm:
    gone = defaultdict[tuple[str, str], list[float]](list)
    for line in played.lines:
        if line.deed is Deed.GONE:
            gone[line.node, line.artifact].append(line.at)
    nodes = (*played.rehearsal.nodes, *played.rehearsal.images)
    begins = [(node.name, held, -math.inf) for node in nodes for held in node.held if node.is_warm(held)]
    begins += [(line.node, line.artifact, line.at) for line in played.lines if line.deed is Deed.WARM]
    spans = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
    for node, artifact, at in begins:
        ends = min((moment for moment in gone[node, artifact] if moment >= at), default=math.inf)
        spans[node, artifact].append((at, ends))
    return _Warm(spans)


def _marks(played: Played, demand: Demand, verdict: Verdict, warm: _Warm) -> Iterator[Mark]:
    """Where it is at its deadline by what was played, nodes that were meant first; what lacks then, where it comes later."""
    at = demand.ready_by
    if at is None or not played.rehearsal.now <= at <= played.until:
        return
    until = math.inf if demand.until is None else demand.until
    artifact, meant = demand.artifact, verdict.nodes
    nodes = [*meant, *sorted(demand.feasible - set(meant), key=_natural)]
    there = [node for node in nodes if warm.is_at(node, artifact, at)][: len(meant)]
    for node in there:
        yield Mark(node, artifact, at, until)
    later = sorted((warm.next_at(node, artifact, at), node not in meant, node) for node in nodes if node not in there)
    for ready, _, node in later[: len(meant) - len(there)]:
        yield Mark(node, artifact, at, until, ready - at)
    if verdict.outcome is Outcome.IMPOSSIBLE or verdict.missing:
        yield Mark(NOWHERE, artifact, at, until, math.inf)


def _title(judged: list[tuple[Demand, Verdict]]) -> str:
    count = {outcome: sum(verdict.outcome is outcome for _, verdict in judged) for outcome in Outcome}
    if not judged:
        return "Nothing is wanted"
    bad = [f"{count[outcome]} {outcome.lower()}" for outcome in (Outcome.LATE, Outcome.IMPOSSIBLE) if count[outcome]]
    return f"{count[Outcome.ON_TIME]} of {len(judged)} on time" + "".join(f", {one}" for one in bad)


def _sentences(played: Played, judged: Iterable[tuple[Demand, Verdict]]) -> Iterator[str]:
    bad = [pair for pair in judged if pair[1].outcome is not Outcome.ON_TIME]
    bad.sort(key=lambda pair: -(math.inf if pair[1].late_by_s is None else pair[1].late_by_s))
    for demand, verdict in bad[:SENTENCES_MAX]:
        how = f"late by {human_seconds(verdict.late_by_s)}" if verdict.late_by_s else str(verdict.outcome).lower()
        helps = f"; it would help: {fixed(verdict.fix)}" if verdict.fix is not None else ""
        yield f"{wanted(played, demand)}: {how} ({verdict.reason}){helps}"
    if len(bad) > SENTENCES_MAX:
        yield f"and {len(bad) - SENTENCES_MAX} more"


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """node2 before node10."""
    parts = list[tuple[str, int]]()
    text, digits = "", ""
    for letter in f"{name}\0":
        if letter.isascii() and letter.isdigit() and len(digits) < 18:
            digits += letter
            continue
        if digits:
            parts.append((text, int(digits)))
            text, digits = "", ""
        text += letter
    return (*parts, (text, -1))
