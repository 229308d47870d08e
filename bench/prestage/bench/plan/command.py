"""`prestage bench plan`: reads its flags, runs, prints."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from prestage.bench.plan import derive, traces
from prestage.bench.plan.baselines import POLICIES, cluster_of
from prestage.bench.plan.cluster import Serving
from prestage.bench.plan.faults import Fault, happenings, released_anew
from prestage.bench.plan.ours import Ours
from prestage.bench.plan.outcome import Row, measured
from prestage.bench.plan.shown import plan_tables, plot_plan
from prestage.bench.plan.simulate import Policy, Run, Scheduler
from prestage.cacher.cli.session import Size
from prestage.cacher.errors import Misconfigured
from prestage.planner.rules import Rules

OURS = "prestage"
_WARM_UP = 0.3
"""Of the trace: counts are learned, and the static list is made, before anything is measured."""


_LOAD = 0.25
"""Of the rates, where a fleet is derived: about half of 8 accelerators a node are busy."""


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


def _starts(setting: Setting) -> list[traces.Start]:
    if setting.trace is not None:
        return traces.read_trace(setting.trace)
    assert setting.rates is not None
    rates = derive.read_rates(setting.rates)
    if setting.nodes == 1:
        return derive.one_node(rates, setting.seed)
    return derive.fleet(rates, setting.seed, copies=max(1, round(setting.nodes / 100)), scale=_LOAD)


def run_one(setting: Setting) -> dict[str, float]:
    """All measures of one run."""
    starts = _starts(setting)
    if not starts:
        raise Misconfigured("the trace has no starts", hint="write one start a line")
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
    run = Run(
        cluster,
        starts,
        said,
        _policy(setting, from_s),
        scheduler=setting.scheduler,
        seed=setting.seed,
        measured_from_s=from_s,
        faults=happenings(setting.fault, length_s=starts[-1].time_s, nodes=setting.nodes, seed=setting.seed),
        has_kubelet=setting.has_kubelet,
    )
    link = setting.link if setting.nodes == 1 else 0.0
    return measured(run.go(), said, link_bytes_per_s=link, budget_bytes=budget, measured_from_s=from_s)


def _policy(setting: Setting, from_s: float) -> Policy:
    if setting.policy != OURS:
        return POLICIES[setting.policy](from_s)
    origin = setting.origin if setting.nodes > 1 and setting.origin < float("inf") else None
    return Ours(rules=Rules(peers=False, origin_bytes_per_s=origin), tick_s=0.0 if setting.nodes == 1 else setting.tick_s)


@click.command("plan")
@click.argument("trace", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--rates", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="ServeGen's form, instead of a TRACE."
)
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 5000))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 100), help="Of sizes, sessions and announcements.")
@click.option("--announced", default="0,0.3,0.5", show_default=True, help="Shares of starts told ahead; `trace`: as it says.")
@click.option("--ssd", default="0.2", show_default=True, help="Stores, as shares of the catalogue.")
@click.option("--budget", type=Size(), help="Of each node's store, instead of --ssd.")
@click.option("--link", type=Size(), default=1_250_000_000, help="Bytes a second of a node (default 1.25 GB).")
@click.option("--origin", type=Size(), help="Bytes a second that all origins give together; default: no limit.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(0), help="Of a node; 0: no limit.")
@click.option("--policies", default="all", show_default=True, help="Names separated by commas, or `all`.")
@click.option("--schedulers", default="aware", show_default=True, help="blind, best of 5, steered, aware; separated by commas.")
@click.option("--fault", type=click.Choice([one.value for one in Fault]), default=Fault.NONE.value, show_default=True)
@click.option("--peers", type=Size(), help="Bytes a second from a node that holds it; simulated, agents ask origins alone.")
@click.option("--kubelet/--no-kubelet", default=True, show_default=True, help="Pods that wait get files when the kubelet asks.")
@click.option("--tick", default=15.0, show_default=True, type=click.FloatRange(0), help="Seconds between plans of several nodes.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Runs at once.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(trace: Path | None, rates: Path | None, png: Path | None, as_json: bool, jobs: int, **more: object) -> None:
    """The planner on a TRACE of pod starts, beside what others do and what cannot be beaten. Nothing is run but arithmetic.

    TRACE: CSV with time_s,app,gpus,size_bytes,duration_s[,announced_s]. Measured after the first 30 % of it.
    """
    if (trace is None) == (rates is None):
        raise Misconfigured("there is nothing to simulate, or two things", hint="name a TRACE, or --rates")
    settings = list(_settings(trace, rates, more))
    rows = _rows(settings, _run_all(settings, jobs))
    if png is not None:
        plot_plan(rows, png)
    if as_json:
        click.echo(json.dumps({"schema": 1, "rows": [row.to_json() for row in rows]}))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for table in plan_tables(rows):
        console.print(table)


def _settings(trace: Path | None, rates: Path | None, more: dict[str, object]) -> Iterator[Setting]:
    nodes, budget, origin = int(str(more["nodes"])), more["budget"], more["origin"]
    known = [*POLICIES, OURS] if nodes == 1 else [name for name in (*POLICIES, OURS) if name != "clairvoyant"]
    names = known if more["policies"] == "all" else [one.strip() for one in str(more["policies"]).split(",")]
    if nodes == 1 or more["policies"] != "all":
        names = _checked(names, [*POLICIES, OURS], "policy")
    shares = [-1.0] if more["announced"] == "trace" else _numbers(str(more["announced"]), "--announced")
    sizes = [0.0] if budget is not None else _numbers(str(more["ssd"]), "--ssd")
    schedulers = _checked([one.strip() for one in str(more["schedulers"]).split(",")], [*Scheduler], "scheduler")
    for ssd in sizes:
        for share in shares:
            for scheduler in schedulers:
                for policy in names:
                    for seed in range(int(str(more["seeds"]))):
                        yield Setting(
                            trace,
                            rates,
                            nodes,
                            policy,
                            Scheduler(scheduler),
                            share,
                            ssd,
                            seed,
                            float(str(more["link"])),
                            float("inf") if origin is None else float(str(origin)),
                            float(str(more["gpus"])),
                            None if budget is None else int(str(budget)),
                            Fault(str(more["fault"])),
                            float(str(more["tick"])),
                            bool(more["kubelet"]),
                            0.0 if more["peers"] is None else float(str(more["peers"])),
                        )


def _checked(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    for name in names:
        if name not in known:
            raise Misconfigured(f"unknown {what} {name!r}", hint=f"known: {', '.join(known)}")
    return list(names)


def _numbers(text: str, what: str) -> list[float]:
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError as exc:
        raise Misconfigured(f"{what} {text!r} are no numbers", hint="for example 0,0.3,0.5") from exc
    if not all(0 <= one <= 1 for one in found):
        raise Misconfigured(f"{what} {text!r} has a share that is none", hint="write numbers from 0 to 1")
    return found


def _run_all(settings: Sequence[Setting], jobs: int) -> Iterator[dict[str, float]]:
    told = os.isatty(2)
    if jobs == 1:
        for number, one in enumerate(settings, 1):
            if told:
                click.echo(f"{number}/{len(settings)} {one.policy} announced {one.share:g} seed {one.seed}", err=True)
            yield run_one(one)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_one, settings)


def _rows(settings: Sequence[Setting], results: Iterator[dict[str, float]]) -> list[Row]:
    found: dict[tuple[str, str, float, float], list[dict[str, float]]] = {}
    for one, result in zip(settings, results, strict=True):
        found.setdefault((one.policy, str(one.scheduler), one.share, one.ssd), []).append(result)
    return [Row(*key, tuple(own)) for key, own in found.items()]
