"""What would happen if nothing but the demand happened: the plan played forward. Pure.

Each node fetches what it was told one after the other at its measured rate, most urgent first; what is not named in the plan goes
when room is needed, as on a real node, by name here for want of a last use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prestage.api.nodes import Action, State
from prestage.planner.demands import Demand, Wall
from prestage.planner.likeness import Parts
from prestage.planner.links import Link
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Plan
from prestage.planner.rules import Rules

_STEPS_MAX = 10_000


class Deed(StrEnum):
    """What a line says."""

    BEGINS = "begins"
    STOPS = "stops"
    """It is not wanted there any more, and was not all there."""
    WARM = "warm"
    GONE = "gone"
    WANTED = "wanted"
    """A window begins: `note` says whether it is in time."""
    OVER = "over"


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """At a moment. `node` empty: of the demand."""

    at: float
    node: str
    deed: Deed
    artifact: str
    note: str = ""


@dataclass(slots=True)
class _Site:
    node: NodeState
    link: Link
    sizes: Mapping[str, int]
    coming: str | None = None
    left_bytes: float = 0.0
    other_bytes: int = 0
    """At rest there, and nobody knows what it is: it goes first."""

    @property
    def used_bytes(self) -> int:
        return sum(self.sizes.get(artifact, 0) for artifact in self.node.held) + self.other_bytes


def played(
    demands: Sequence[Demand],
    nodes: Iterable[NodeState],
    now: float,
    *,
    walls: Mapping[str, Wall] | None = None,
    rules: Rules | None = None,
    until: float | None = None,
    sizes: Mapping[str, int] | None = None,
    parts: Parts | None = None,
    goes_on: Callable[[float], bool] = lambda moment: True,
) -> tuple[Plan, list[Line]]:
    """The plan at `now`, and all that follows of it up to `until` (None: two days). `sizes`: of what nodes hold and nobody
    wants. `goes_on`: asked before each step whether there is patience for it, with the moment that was come to."""
    rules = rules or Rules()
    until = now + 2 * 86_400 if until is None else until
    sizes = {**(sizes or {}), **{one.artifact: one.size_bytes for one in demands}}
    sites = [_Site(one, Link(one.rate_bytes_per_s or rules.assumed_bytes_per_s, one.rate_windows), sizes) for one in nodes]
    for site in sites:
        site.other_bytes = max(0, (site.node.used_bytes or 0) - site.used_bytes)
    lines, at = list[Line](), now
    first: Plan | None = None
    last: Plan | None = None
    marks = _marks(demands, now)
    for _ in range(_STEPS_MAX):
        if first is not None and not goes_on(at):
            break
        made = plan(demands, [_seen(one) for one in sites], at, walls=walls, rules=rules, parts=parts, before=last)
        first, last = first or made, made
        for site in sites:
            lines += _obey(site, made, at)
        ends = min((site.link.ends(at, site.left_bytes) for site in sites if site.coming is not None), default=math.inf)
        mark = min((moment for moment in marks if moment > at), default=math.inf)
        then = min(ends, mark, math.inf if made.again_at is None else made.again_at)
        if then > until:
            break
        for site in sites:
            lines += _fetch(site, at, then)
        at = max(then, at + 1e-6)
        lines += _windows(demands, sites, at, then)
    assert first is not None
    return first, sorted(lines, key=lambda line: (line.at, line.node))  # of one node and moment as they come


def _marks(demands: Iterable[Demand], now: float) -> set[float]:
    return {moment for one in demands for moment in (one.ready_by, one.until) if moment is not None and moment > now}


def _seen(site: _Site) -> NodeState:
    return dataclasses.replace(site.node, used_bytes=site.used_bytes)


def _obey(site: _Site, made: Plan, at: float) -> list[Line]:
    """Takes the plan in, and begins the most urgent of what is not there."""
    said, lines = made.nodes[site.node.name], list[Line]()
    site.node = dataclasses.replace(site.node, planned={one.artifact: one for one in said.assignments})
    wanted = [one.artifact for one in said.assignments if one.action is Action.STAGE and not site.node.is_warm(one.artifact)]
    if site.coming is not None and site.coming not in wanted:
        lines.append(Line(at, site.node.name, Deed.STOPS, site.coming))
        site.node = _holding(site.node, site.coming, None)
        site.coming = None
    if site.coming is None and wanted:
        artifact = wanted[0]
        lines += _make_room(site, said_by={one.artifact for one in said.assignments}, artifact=artifact, at=at)
        site.node = _holding(site.node, artifact, Held(State.STAGING))
        site.coming, site.left_bytes = artifact, float(site.sizes[artifact])
        lines.append(Line(at, site.node.name, Deed.BEGINS, artifact))
    return lines


def _make_room(site: _Site, *, said_by: set[str], artifact: str, at: float) -> list[Line]:
    lines, budget = list[Line](), site.node.budget_bytes
    if budget is not None:
        over = site.used_bytes + site.sizes[artifact] - budget
        site.other_bytes -= min(site.other_bytes, max(0, over))
    for other in sorted(site.node.held):
        if budget is None or site.used_bytes + site.sizes[artifact] <= budget:
            break
        if other not in said_by and other != artifact:
            site.node = _holding(site.node, other, None)
            lines.append(Line(at, site.node.name, Deed.GONE, other))
    return lines


def _fetch(site: _Site, since: float, then: float) -> list[Line]:
    if site.coming is None:
        return []
    ends = site.link.ends(since, site.left_bytes)
    if ends > then:
        low, high = 0.0, site.left_bytes
        for _ in range(60):  # bytes that are through by then, windows of the link included
            middle = (low + high) / 2
            low, high = (middle, high) if site.link.ends(since, middle) <= then else (low, middle)
        site.left_bytes -= low
        return []
    artifact, site.coming, site.left_bytes = site.coming, None, 0.0
    site.node = _holding(site.node, artifact, Held(State.WARM))
    return [Line(ends, site.node.name, Deed.WARM, artifact)]


def _holding(node: NodeState, artifact: str, held: Held | None) -> NodeState:
    left = {name: one for name, one in node.held.items() if name != artifact}
    return dataclasses.replace(node, held=left if held is None else {**left, artifact: held})


def _windows(demands: Iterable[Demand], sites: Sequence[_Site], at: float, then: float) -> list[Line]:
    lines = list[Line]()
    for one in demands:
        if one.ready_by == then:
            names = [site.node.name for site in sites if site.node.is_warm(one.artifact)]
            wanted = one.count if one.copies is None else one.copies
            note = f"warm on {len(names)} of {wanted}: {', '.join(names)}" if names else f"warm on none of {wanted}"
            lines.append(Line(at, "", Deed.WANTED, one.artifact, note))
        if one.until == then:
            lines.append(Line(at, "", Deed.OVER, one.artifact))
    return lines
