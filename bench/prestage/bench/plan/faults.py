"""What goes wrong in a run, by a fixed seed: the planner is away, links are slow, nodes are lost, models are released anew."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from prestage.bench.plan.cluster import Node
from prestage.bench.plan.ours import Ours
from prestage.bench.plan.simulate import Run
from prestage.bench.plan.traces import Start

BOOT_S = 180.0
"""From a node being lost to another in its place, with an empty store."""
_EVERY_S = 21_600.0
_DAY_S = 86_400.0


class Fault(StrEnum):
    """One kind of them at a time."""

    NONE = "none"
    PLANNER_DOWN = "planner down"
    """30 minutes of every six hours."""
    SLOW_LINKS = "links at 30 %"
    """One hour of every six; the planner is not told, as a rate is measured over many stages."""
    NODE_LOSS = "node loss"
    """One node in a hundred each day, with all it holds; another one is there three minutes later."""
    RE_RELEASE = "re-released models"
    """Each model gets one new release, all of its bytes new, at a moment that is drawn."""


Happening = tuple[float, Callable[[Run], None]]


def happenings(fault: Fault, *, length_s: float, nodes: int, seed: int) -> list[Happening]:
    """When, and what."""
    if fault is Fault.NODE_LOSS:
        return list(_losses(length_s, nodes, random.Random(f"loss {seed}")))  # noqa: S311  a seed, no secret
    made = list[Happening]()
    for number in range(1, int(length_s // _EVERY_S)):
        at = number * _EVERY_S
        if fault is Fault.PLANNER_DOWN:
            made += [(at, lambda run: _away(run, is_down=True)), (at + 1800.0, lambda run: _away(run, is_down=False))]
        elif fault is Fault.SLOW_LINKS:
            made += [(at, lambda run: _slow(run, 0.3)), (at + 3600.0, lambda run: _slow(run, 1 / 0.3))]
    return made


def released_anew(starts: Sequence[Start], seed: int) -> list[Start]:
    """From a moment that is drawn for each app its starts are of another app, of the same size."""
    chance = random.Random(f"release {seed}")  # noqa: S311  a seed, no secret
    length_s = starts[-1].time_s if starts else 0.0
    since = {app: chance.uniform(0.3, 1.0) * length_s for app in sorted({one.app for one in starts})}
    return [dataclasses.replace(one, app=f"{one.app}@2") if one.time_s >= since[one.app] else one for one in starts]


def _losses(length_s: float, nodes: int, chance: random.Random) -> Iterator[Happening]:
    """At least one node, so that a small cluster has its day too."""
    expected = nodes * length_s / _DAY_S / 100
    for number in range(max(1, round(expected))):
        at, place = chance.uniform(0.3, 1.0) * length_s, chance.random()
        yield at, lambda run, place=place, number=number: _lose(run, place, f"new{number:04}")  # type: ignore[misc]  # mypy infers no lambda with a default


def _lose(run: Run, place: float, name: str) -> None:
    if len(run.cluster.nodes) < 2:
        return
    gone = run.cluster.nodes[int(place * len(run.cluster.nodes))]
    gpus = gone.gpus + run.gpus_taken(gone)
    run.lose(gone)
    run.at(run.now + BOOT_S, lambda: run.join(Node(name, gone.budget_bytes, gone.link_bytes_per_s, gpus)))


def _away(run: Run, *, is_down: bool) -> None:
    if isinstance(run.policy, Ours):
        run.policy.is_down = is_down


def _slow(run: Run, share: float) -> None:
    for node in run.cluster.nodes:
        node.link_bytes_per_s *= share
    run.cluster.touch()
