"""One run by its settings, and many one after the other or at once, as they end."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from prestage.bench.plan import derive, traces
from prestage.bench.plan.baselines import POLICIES, cluster_of
from prestage.bench.plan.cluster import Serving
from prestage.bench.plan.faults import Fault, happenings, released_anew
from prestage.bench.plan.ours import Ours
from prestage.bench.plan.outcome import Cost, measured
from prestage.bench.plan.progress import Progress
from prestage.bench.plan.simulate import Policy, Run, Scheduler, Served
from prestage.bench.plan.traces import Start
from prestage.cacher.errors import Misconfigured
from prestage.planner.rules import Rules

OURS = "prestage"
_WARM_UP = 0.3
"""Of the trace: counts are learned, and the static list is made, before anything is measured."""
_LOAD = 0.25
"""Of the rates, where a fleet is derived: two thirds to four fifths of 8 accelerators a node are busy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One run."""

    trace: Path | None
    rates: Path | None
    nodes: int
    policy: str
    scheduler: Scheduler
    share: float
    ssd: float
    seed: int
    link: float
    origin: float
    gpus: float
    budget: int | None = None
    fault: Fault = Fault.NONE
    tick_s: float = 15.0
    has_kubelet: bool = True
    peer_bytes_per_s: float = 0.0
    hours: float | None = None
    """Of the trace from its beginning; None: all."""

    @property
    def name(self) -> str:
        """For a reader of its progress."""
        ahead = "as the trace says" if self.share < 0 else f"{self.share:.0%}"
        return f"{self.policy}, {self.scheduler}, told ahead {ahead}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `served`: the pods that are measured, each with its start; `cost` is no part of what is compared."""

    measures: dict[str, float]
    served: list[tuple[Start, Served]] = field(repr=False)
    cost: Cost = field(compare=False)


def run_one(setting: Setting, watch: Callable[[Run], None] = lambda run: None) -> Outcome:
    """`watch`: called at each event."""
    began_s, starts = time.process_time(), _starts(setting)
    if not starts:
        raise Misconfigured("the trace has no starts", hint="write one start a line; with --hours, name more of them")
    catalogue = sum({one.app: one.size_bytes for one in starts}.values())
    if setting.fault is Fault.RE_RELEASE:
        starts = released_anew(starts, setting.seed)
    if setting.share < 0:
        said = traces.told_ahead(starts)
    else:
        said = traces.announced(starts, setting.share, setting.seed) if setting.share > 0 else []
    budget = setting.budget if setting.budget is not None else int(catalogue * setting.ssd)
    from_s = _WARM_UP * starts[-1].time_s
    cluster = cluster_of(
        setting.nodes, budget_bytes=budget, link=setting.link, gpus=setting.gpus or float("inf"), origin=setting.origin
    )
    cluster.serving = Serving.IN_TURN if setting.policy == OURS else Serving.ALIKE
    cluster.peer_bytes_per_s = setting.peer_bytes_per_s
    policy = _policy(setting, from_s)
    run = Run(
        cluster,
        starts,
        said,
        policy,
        scheduler=setting.scheduler,
        seed=setting.seed,
        measured_from_s=from_s,
        faults=happenings(setting.fault, length_s=starts[-1].time_s, nodes=setting.nodes, seed=setting.seed),
        has_kubelet=setting.has_kubelet,
    )
    link, tally = setting.link if setting.nodes == 1 else 0.0, run.go(watch)
    measures = measured(tally, said, link_bytes_per_s=link, budget_bytes=budget, measured_from_s=from_s)
    plans_cpu_s = policy.plans_cpu_s if isinstance(policy, Ours) else ()
    served = [(starts[one.number], one) for one in tally.served]
    return Outcome(measures, served, Cost.of(time.process_time() - began_s, plans_cpu_s))


def _starts(setting: Setting) -> list[Start]:
    if setting.trace is not None:
        starts = traces.read_trace(setting.trace)
    else:
        assert setting.rates is not None
        rates = derive.read_rates(setting.rates)
        if setting.nodes == 1:
            starts = derive.one_node(rates, setting.seed)
        else:
            starts = derive.fleet(rates, setting.seed, copies=max(1, round(setting.nodes / 100)), scale=_LOAD)
    return starts if setting.hours is None else [one for one in starts if one.time_s < setting.hours * 3600]


def _policy(setting: Setting, from_s: float) -> Policy:
    if setting.policy != OURS:
        return POLICIES[setting.policy](from_s)
    origin = setting.origin if setting.nodes > 1 and setting.origin < float("inf") else None
    return Ours(rules=Rules(peers=False, origin_bytes_per_s=origin), tick_s=0.0 if setting.nodes == 1 else setting.tick_s)


def run_all(settings: Sequence[Setting], jobs: int, progress: Progress) -> Iterator[tuple[Setting, Outcome]]:
    """As they end. Closed or interrupted: what still runs is stopped."""
    if jobs == 1:
        for one in settings:
            progress.begin(one.name)
            made = run_one(one, progress.at)
            progress.end(one.name)
            yield one, made
        return
    pool, is_over = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_leave_signals), False
    try:
        asked = {pool.submit(run_one, one): one for one in settings}
        for future in as_completed(asked):
            made = future.result()
            progress.end(asked[future].name)
            yield asked[future], made
        is_over = True
    finally:
        pool.shutdown(wait=is_over, cancel_futures=True)
        for child in multiprocessing.active_children() if not is_over else ():
            child.terminate()


def _leave_signals() -> None:
    """Ctrl-C comes to all processes of a terminal: the one that started them stops them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
