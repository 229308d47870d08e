"""What a run is judged by, and the mean and spread of several."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prestage.bench.plan.offline import IN_TIME_S, feasible, served
from prestage.bench.plan.simulate import Tally
from prestage.bench.plan.traces import Announcement

MEASURES = (
    "warm",
    "bytes_hit",
    "wait_hours",
    "gpu_wait_hours",
    "queued_hours",
    "wait_p50_s",
    "wait_p95_s",
    "wait_p99_s",
    "fetched_tb",
    "wasted_tb",
    "on_time",
    "feasible",
    "on_time_of_feasible",
    "late_p99_s",
    "by_link",
    "on_time_by_link",
)


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values; 0 of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def measured(
    tally: Tally, said: Sequence[Announcement], *, link_bytes_per_s: float, budget_bytes: float = math.inf, measured_from_s: float
) -> dict[str, float]:
    """By measure. `link_bytes_per_s`, `budget_bytes`: of one node; 0: several nodes, what was feasible is not asked."""
    waits = sorted(tally.waits_s)
    counted = {number for number, one in enumerate(said) if one.said_s >= measured_from_s and number in tally.declared}
    late = {number: tally.declared[number] for number in counted}
    by_link = feasible(said, tally, link_bytes_per_s) & counted if link_bytes_per_s else counted
    possible = by_link
    if link_bytes_per_s:
        possible = served(said, tally, link_bytes_per_s=link_bytes_per_s, budget_bytes=budget_bytes) & counted
    of_possible = sorted(late[number] for number in possible)
    return {
        "warm": tally.warm / max(1, len(waits)),
        "bytes_hit": tally.bytes_hit / max(1.0, tally.bytes_asked),
        "wait_hours": sum(waits) / 3600,
        "gpu_wait_hours": tally.gpu_wait_s / 3600,
        "queued_hours": tally.queued_s / 3600,
        "wait_p50_s": quantile(waits, 0.5),
        "wait_p95_s": quantile(waits, 0.95),
        "wait_p99_s": quantile(waits, 0.99),
        "fetched_tb": tally.fetched_bytes / 1e12,
        "wasted_tb": tally.wasted_bytes / 1e12,
        "on_time": _share(late.values()),
        "feasible": len(possible) / max(1, len(counted)),
        "on_time_of_feasible": _share(of_possible),
        "late_p99_s": quantile(of_possible, 0.99),
        "by_link": len(by_link) / max(1, len(counted)),
        "on_time_by_link": _share(late[number] for number in by_link),
    }


def _share(late: Iterable[float]) -> float:
    values = list(late)
    return sum(one <= IN_TIME_S for one in values) / len(values) if values else 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took; no figure of a policy."""

    cpu_s: float
    plans: int
    """Made by the product's planner; 0 with other policies."""
    plan_cpu_s: float
    """Of all plans together."""
    plan_cpu_most_s: float
    """Of one plan."""
    peak_rss_bytes: int
    """Of the process, with all that it ran before."""

    @classmethod
    def of(cls, cpu_s: float, plans_cpu_s: Sequence[float]) -> Cost:
        """`plans_cpu_s`: of each plan."""
        return cls(cpu_s, len(plans_cpu_s), sum(plans_cpu_s), max(plans_cpu_s, default=0.0), _peak_rss_bytes())


def _peak_rss_bytes() -> int:
    """0: this kernel does not tell."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass(frozen=True, slots=True)
class Row:
    """Of one policy under one condition; every measure of every seed."""

    policy: str
    scheduler: str
    share: float
    ssd: float
    seeds: tuple[Mapping[str, float], ...]
    costs: tuple[Cost, ...]
    """Of each seed."""

    @property
    def cost(self) -> Cost:
        """Of all seeds."""
        return Cost(
            sum(one.cpu_s for one in self.costs),
            sum(one.plans for one in self.costs),
            sum(one.plan_cpu_s for one in self.costs),
            max(one.plan_cpu_most_s for one in self.costs),
            max(one.peak_rss_bytes for one in self.costs),
        )

    def mean(self, measure: str) -> float:
        """Over the seeds."""
        return statistics.fmean(one[measure] for one in self.seeds)

    def spread(self, measure: str) -> float:
        """Standard deviation over the seeds."""
        return statistics.pstdev(one[measure] for one in self.seeds)

    def _summary(self, measure: str) -> dict[str, object]:
        """`values`: seed by seed, so that policies can be held against each other pair by pair."""
        return {"mean": self.mean(measure), "spread": self.spread(measure), "values": [one[measure] for one in self.seeds]}

    def to_json(self) -> dict[str, object]:
        """One object."""
        said = {name: self._summary(name) for name in MEASURES}
        about = {"policy": self.policy, "scheduler": self.scheduler, "announced": self.share, "ssd": self.ssd}
        return {**about, "seeds": len(self.seeds), **said, "cost": asdict(self.cost)}


def gaps(rows: Sequence[Row]) -> dict[tuple[str, float, float, str], float]:
    """(LRU - policy) / (LRU - clairvoyant) of the hours waited; by scheduler, announced share, SSD and policy."""
    found = defaultdict[tuple[str, float, float], dict[str, Row]](dict)
    for row in rows:
        found[row.scheduler, row.share, row.ssd][row.policy] = row
    made = {}
    for key, own in found.items():
        if "LRU" not in own or "clairvoyant" not in own:
            continue
        base, best = own["LRU"].mean("wait_hours"), own["clairvoyant"].mean("wait_hours")
        for policy, row in own.items():
            if base > best:
                made[(*key, policy)] = (base - row.mean("wait_hours")) / (base - best)
    return made
