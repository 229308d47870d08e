"""Metrics of the planner. Names carry units; nothing of a tenant is a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client import Counter as PromCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prestage.control.planning.board import Board
from prestage.control.planning.outcomes import Settled
from prestage.planner.demands import Trust
from prestage.planner.plans import Outcome

REACTION_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Tally:
    """What is counted, over all times of leading."""

    is_leading: bool = False
    unsynced: Callable[[], list[str]] = list
    writes: Counter[str] = field(default_factory=Counter)
    """By what was written; those that failed as "failed"."""
    resolves: int = 0

    def asking(self) -> None:
        """One question to the broker."""
        self.resolves += 1


class PlannerCollector(Collector):
    """Reads the last plan at each scrape."""

    def __init__(self, board: Board, tally: Tally) -> None:
        self._board, self._tally = board, tally

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        tally = self._tally
        yield GaugeMetricFamily("prestage_planner_leading", "1 while this replica leads.", value=float(tally.is_leading))
        unsynced = GaugeMetricFamily("prestage_planner_unsynced", "1: this kind was never listed.", labels=["kind"])
        for kind in tally.unsynced():
            unsynced.add_metric([kind], 1.0)
        yield unsynced
        writes = CounterMetricFamily("prestage_planner_writes", "Requests that wrote, by what.", labels=["what"])
        for what in ("nodecache", "status", "capacitybuffer", "failed"):
            writes.add_metric([what], tally.writes[what])
        yield writes
        yield CounterMetricFamily("prestage_planner_resolves", "Questions to the broker.", value=tally.resolves)
        posted = self._board.last
        if posted is None or not tally.is_leading:
            return
        found = Counter[tuple[Trust, Outcome]]()
        late = Counter[Trust]()
        for demand in posted.collected.demands:
            if (verdict := posted.plan.verdicts.get(demand.id)) is not None:
                found[demand.trust, verdict.outcome] += 1
                late[demand.trust] = max(late[demand.trust], round(verdict.late_by_s or 0))
        demands = GaugeMetricFamily("prestage_demands", "Demands by source and outcome.", labels=["trust", "outcome"])
        for (trust, outcome), count in sorted(found.items()):
            demands.add_metric([trust.name.lower(), outcome], count)
        yield demands
        lateness = GaugeMetricFamily("prestage_demand_late_seconds", "The latest that can be foreseen.", labels=["trust"])
        for trust, seconds in sorted(late.items()):
            lateness.add_metric([trust.name.lower()], seconds)
        yield lateness
        left_out = sum(posted.collected.cut.values()) + len(posted.collected.unread)
        yield GaugeMetricFamily("prestage_demands_left_out", "Declared, but too much of one namespace.", value=left_out)
        failures = GaugeMetricFamily("prestage_unresolved", "Models without artifact, by class of the refusal.", labels=["class"])
        for kind, count in sorted(Counter(one.error_class for one in posted.failures.values()).items()):
            failures.add_metric([kind], count)
        yield failures


class Meters:
    """The registry."""

    def __init__(self, board: Board, tally: Tally) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(PlannerCollector(board, tally))
        self._plans = Histogram(
            "prestage_plan_seconds",
            "Collecting demand and planning, without writing.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
            registry=self.registry,
        )
        self._windows = PromCounter(
            "prestage_windows",
            "Windows that began, by who said them and what became of them.",
            ["source", "outcome"],
            registry=self.registry,
        )
        self._late = Histogram(
            "prestage_window_late_seconds",
            "After its deadline; 0: in time.",
            ["source"],
            buckets=(0.0, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0),
            registry=self.registry,
        )
        self._reactions = Histogram(
            "prestage_reaction_seconds",
            "From the first change not acted on, as it was read, to a request being ready to be sent, by what is written.",
            ["write"],
            buckets=REACTION_BUCKETS_S,
            registry=self.registry,
        )

    def reacted(self, write: str) -> Callable[[float], None]:
        """Where the seconds of that kind of write go."""
        return self._reactions.labels(write).observe

    def settled(self, one: Settled) -> None:
        """A window began, and was warm by then, later, or never."""
        outcome = "missed" if one.late_by_s is None else "late" if one.late_by_s > 0 else "on_time"
        self._windows.labels(str(one.source), outcome).inc()
        if one.late_by_s is not None:
            self._late.labels(str(one.source)).observe(one.late_by_s)

    def planned(self, seconds: float) -> None:
        """One plan."""
        self._plans.observe(seconds)
