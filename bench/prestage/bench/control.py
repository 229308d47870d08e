"""`prestage bench control`: what the control plane does for many nodes and pods, and what it costs: time, memory, writes.

    nodes       fake ones, which kwok keeps Ready; a stand-in for agents reports for them ("agents are stood in for")
    fill        Deployments of `replicas` pods each, all at once, until every pod runs
    alone       Deployments of one pod, one after the other, among all those: how long each step takes

Everything else is real: API server, scheduler, controllers, and our planner, admission and broker, which tell on /metrics what
they did. JSON (`to_json`, `schema` 1); seconds; SUMMARY as in `fetch.py`; `machine` is the one that asked:

    {"bench": "control", "schema": 1, "date", "nodes", "pods", "templates", "machine": {...}, "agents": "stood in for",
     "fill": PHASE, "alone": PHASE,
     "steps": {"node_cache": SUMMARY, "released": SUMMARY, "running": SUMMARY}}       wall: what others do is in it
    PHASE = {"seconds", "pods", "writes_per_pod", "writes": {PART: {"METHOD resource": count}},
             "own": {WRITE: {"p50", "p99", "count"}},    change read -> patch sent; the upper ends of histogram buckets
             "plans": {"count", "mean_s"},    how often demand was planned, how long that took
             "cpu_s": {PART: s}, "rss_bytes": {PART: bytes}, "gates": {"DECISION reason": count}, "refused"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.bench.control_metrics import Said
from prestage.bench.machine import Machine
from prestage.bench.rounds import Summary, summarize
from prestage.cacher.errors import Misconfigured

GOAL_OWN_S, GOAL_RSS_BYTES, GOAL_WRITES, GOAL_RELEASED_S, GOAL_NODE_CACHE_S = 0.5, 300 << 20, 6.0, 0.5, 1.0
WRITES = ("nodecache", "gate", "condition")
"""What the planner's `prestage_reaction_seconds` tells apart."""


@dataclass(frozen=True, slots=True)
class ControlJob:
    """What to measure."""

    namespace: str
    refs: str
    """A ref with `{n}` in it: each template asks for another model."""
    parts: Mapping[str, str]
    """Part to the URL of its metrics; `planner` is the leader's."""
    nodes: int = 500
    pods: int = 2000
    replicas: int = 10
    alone: int = 20
    image: str = "none.invalid/none"
    stage_s: float = 1.0
    """How long the stand-in stages."""
    patience_s: float = 300.0
    """How long a step may take."""
    settle_s: float = 2.0
    """Nothing was written for so long: what follows from the last change is done."""

    @property
    def templates(self) -> int:
        """Of the first phase."""
        return -(-self.pods // self.replicas)


@dataclass(frozen=True, slots=True)
class Phase:
    """From `before` to `after`: what each part said."""

    seconds: float
    pods: int
    before: Mapping[str, Said]
    after: Mapping[str, Said]

    def added(self, part: str) -> Said:
        """What a part did in it."""
        return self.after[part].since(self.before[part])

    @property
    def writes_per_pod(self) -> float:
        """Of all parts together."""
        return sum(sum(self.added(part).writes().values()) for part in self.after) / max(1, self.pods)

    def own_s(self, write: str, q: float) -> float | None:
        """Quantile of the planner's own time; None where it wrote none."""
        return self.added("planner").quantile("prestage_reaction_seconds", q, write=write)

    def worst_own_s(self) -> float:
        """The worst p99 of all kinds of writes."""
        return max((found for write in WRITES if (found := self.own_s(write, 0.99)) is not None), default=0.0)

    def plans(self) -> tuple[int, float]:
        """How many, and how long one took: wall, in the mean."""
        said = self.added("planner")
        count = round(said.one("prestage_plan_seconds_count"))
        return count, said.one("prestage_plan_seconds_sum") / max(1, count)

    def rss_bytes(self, part: str) -> int:
        """At its end."""
        return round(self.after[part].one("process_resident_memory_bytes"))

    def cpu_s(self, part: str) -> float:
        """Used in it."""
        return self.added(part).one("process_cpu_seconds_total")

    def refused(self) -> int:
        """Pods that admission refused or could not read."""
        return sum(
            round(self.added(part).one("prestage_admission_answers_total", answer=answer))
            for part in self.after
            for answer in ("refused", "failed", "unreadable")
        )

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        planner = self.added("planner")
        own = {
            write: {
                "p50": self.own_s(write, 0.5),
                "p99": self.own_s(write, 0.99),
                "count": round(planner.one("prestage_reaction_seconds_count", write=write)),
            }
            for write in WRITES
        }
        gates: dict[str, int] = {}
        for part in self.after:
            for (name, labels), value in self.added(part).samples.items():
                if name == "prestage_gate_decisions_total" and value:
                    said = dict(labels)
                    gates[f"{said['decision']} {said['reason']}"] = round(value)
        return {
            "seconds": round(self.seconds, 3),
            "pods": self.pods,
            "writes_per_pod": round(self.writes_per_pod, 2),
            "writes": {part: self.added(part).writes() for part in sorted(self.after)},
            "own": own,
            "plans": dict(zip(("count", "mean_s"), self.plans(), strict=True)),
            "cpu_s": {part: round(self.cpu_s(part), 2) for part in sorted(self.after)},
            "rss_bytes": {part: self.rss_bytes(part) for part in sorted(self.after)},
            "gates": dict(sorted(gates.items())),
            "refused": self.refused(),
        }


@dataclass(frozen=True, slots=True)
class Steps:
    """One Deployment of the second phase, wall time. `released` None: its pod was not gated when its model became warm."""

    node_cache_s: float
    """Deployment created to the artifact in a NodeCache."""
    released_s: float | None
    """The agent's `Warm` taken by the API server to the gate gone."""
    running_s: float
    """Deployment created to its pod running."""


@dataclass(frozen=True, slots=True)
class ControlResult:
    """Both phases."""

    job: ControlJob
    machine: Machine
    date: str
    fill: Phase
    alone: Phase
    steps: Sequence[Steps] = field(default_factory=tuple)

    def step(self, name: str) -> Summary | None:
        """Over all Deployments of the second phase that had it."""
        values = [value for one in self.steps if (value := getattr(one, f"{name}_s")) is not None]
        return summarize(values) if values else None

    def goals(self) -> dict[str, bool]:
        """Which are met."""
        released, written = self.step("released"), self.step("node_cache")
        phases = (self.fill, self.alone)
        return {
            "own time p99": max(phase.worst_own_s() for phase in phases) <= GOAL_OWN_S,
            "RSS": max(phase.rss_bytes(part) for phase in phases for part in phase.after) <= GOAL_RSS_BYTES,
            "writes a pod": self.fill.writes_per_pod <= GOAL_WRITES,
            "last byte -> gate released": released is None or released.median <= GOAL_RELEASED_S,
            "annotation -> NodeCache": written is None or written.median <= GOAL_NODE_CACHE_S,
        }

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        steps = {name: found.to_json() for name in ("node_cache", "released", "running") if (found := self.step(name))}
        return {
            "bench": "control",
            "schema": 1,
            "date": self.date,
            "nodes": self.job.nodes,
            "pods": self.job.pods,
            "templates": self.job.templates,
            "agents": "stood in for",
            "machine": self.machine.to_json(),
            "fill": self.fill.to_json(),
            "alone": self.alone.to_json(),
            "steps": steps,
            "goals": self.goals(),
        }


def parts_of(given: Sequence[str]) -> dict[str, str]:
    """`NAME=URL` of each part; the planner's must be among them.

    Raises:
        Misconfigured: what is missing or no pair.
    """
    found = {}
    for text in given:
        name, separator, url = text.partition("=")
        if not separator or not url.startswith(("http://", "https://")):
            raise Misconfigured(f"{text!r} is no NAME=URL", hint="--part planner=http://127.0.0.1:8081/metrics")
        found[name] = url
    if "planner" not in found:
        raise Misconfigured(
            "the planner's metrics are not named", hint="--part planner=http://HOST:8081/metrics; admission and broker likewise"
        )
    return found


def control_table(result: ControlResult) -> RenderableType:
    """Phases, parts, goals."""
    times = Table("PHASE", "WRITE", "OWN p50 s", "OWN p99 s", box=None, pad_edge=False, header_style="bold")
    costs = Table("PHASE", "PART", "CPU s", "RSS MiB", "WRITES", box=None, pad_edge=False, header_style="bold")
    for name, phase in (("fill", result.fill), ("alone", result.alone)):
        for write in WRITES:
            p50, p99 = phase.own_s(write, 0.5), phase.own_s(write, 0.99)
            if p50 is not None and p99 is not None:
                times.add_row(name, write, f"<= {p50:g}", f"<= {p99:g}")
        for part in sorted(phase.after):
            written = sum(phase.added(part).writes().values())
            costs.add_row(name, part, f"{phase.cpu_s(part):.1f}", f"{phase.rss_bytes(part) / (1 << 20):.0f}", str(written))
    job, fill = result.job, result.fill
    lines = [
        f"{job.nodes} nodes, {job.templates} templates, {fill.pods} pods running after {fill.seconds:.1f} s; "
        f"{fill.writes_per_pod:.2f} API writes a pod; {fill.refused()} refused; agents are stood in for"
    ]
    named = (("node_cache", "annotation -> NodeCache"), ("released", "last byte -> gate released"), ("running", "-> running"))
    lines += [
        f"{words}: {found.median:.2f} s (median; {found.interval})" for step, words in named if (found := result.step(step))
    ]
    planned = ((name, *phase.plans()) for name, phase in (("fill", fill), ("alone", result.alone)))
    lines += ["plans: " + "; ".join(f"{name} {count} of {mean_s:.3f} s" for name, count, mean_s in planned)]
    verdict = ", ".join(f"{goal}: {'met' if met else 'missed'}" for goal, met in result.goals().items())
    return Group(times, Text(), costs, Text(), *map(Text, lines), Text(verdict), Text(result.machine.line(), style="dim"))
