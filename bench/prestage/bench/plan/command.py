"""`prestage bench plan`: reads its flags, runs, prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console

from prestage.bench.plan.baselines import POLICIES
from prestage.bench.plan.faults import Fault
from prestage.bench.plan.outcome import Cost, Row
from prestage.bench.plan.progress import Progress
from prestage.bench.plan.runs import OURS, Outcome, Setting, run_all
from prestage.bench.plan.shown import cost_lines, plan_tables, plot_plan
from prestage.bench.plan.simulate import Scheduler
from prestage.bench.plan.waits import WaitsFile
from prestage.cacher.cli import INTERRUPTED, TERMINATED, Terminated
from prestage.cacher.cli.session import Size
from prestage.cacher.errors import Misconfigured


@click.command("plan")
@click.argument("trace", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--rates", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="ServeGen's form, instead of a TRACE."
)
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Only so many from the trace's beginning; default: all.")
@click.option(
    "--nodes", default=1, show_default=True, type=click.IntRange(1, 5000), help="Alike; several: see --schedulers, --tick."
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 100), help="Of sizes, sessions and announcements.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(0), help="Of these; to go on where a run ended.")
@click.option("--announced", default="0,0.3,0.5", show_default=True, help="Shares of starts told ahead; `trace`: as it says.")
@click.option("--ssd", default="0.2", show_default=True, help="Stores, as shares of the catalogue.")
@click.option("--budget", type=Size(), help="Of each node's store, instead of --ssd.")
@click.option("--link", type=Size(), default=1_250_000_000, help="Bytes a second of a node (default 1.25 GB).")
@click.option("--origin", type=Size(), help="Bytes a second that all origins give together; default: no limit.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(0), help="Of a node; 0: no limit.")
@click.option("--policies", default="all", show_default=True, help=f"Separated by commas, of: {'; '.join([*POLICIES, OURS])}.")
@click.option("--schedulers", default="aware", show_default=True, help=f"Separated by commas, of: {', '.join(Scheduler)}.")
@click.option(
    "--fault",
    type=click.Choice([one.value for one in Fault]),
    default=Fault.NONE.value,
    show_default=True,
    help="What goes wrong meanwhile.",
)
@click.option("--peers", type=Size(), help="Bytes a second from a node that holds it; simulated, agents ask origins alone.")
@click.option("--kubelet/--no-kubelet", default=True, show_default=True, help="Pods that wait get files when the kubelet asks.")
@click.option("--tick", default=15.0, show_default=True, type=click.FloatRange(0), help="Seconds between plans of several nodes.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Runs at once.")
@click.option("--waits", type=click.Path(path_type=Path, dir_okay=False), help="Write each measured start and its wait, as CSV.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    trace: Path | None, rates: Path | None, waits: Path | None, png: Path | None, as_json: bool, jobs: int, **more: object
) -> int:
    """The planner on a TRACE of pod starts, beside what others do and what cannot be beaten. Nothing is run but arithmetic.

    TRACE: CSV with time_s,app,gpus,size_bytes,duration_s[,announced_s]. Measured after the first 30 % of it.

    One node takes seconds a run; of 100 nodes with the planner it is a minute, of 450 many. --hours 6 is the trace's beginning
    only, from empty stores. Where a long run is, stderr says; Ctrl-C shows the runs that ended.

    \b
    Try:
      prestage bench plan trace.csv --policies "LRU,cron only,prestage" --announced trace
      prestage bench plan trace.csv --nodes 100 --gpus 8 --budget 2T --link 3G --origin 12G \\
        --schedulers steered --tick 60 --policies LRU,prestage --waits waits.csv
    """
    if (trace is None) == (rates is None):
        raise Misconfigured("there is nothing to simulate, or two things", hint="name a TRACE, or --rates")
    settings = list(_settings(trace, rates, more))
    file = WaitsFile(waits) if waits is not None else None
    found, code = _run(settings, jobs, file)
    rows = _rows(found)
    if png is not None and rows:
        plot_plan(rows, png)
    if as_json:
        shown = {"schema": 1, "runs": len(found), "runs_asked": len(settings), "rows": [row.to_json() for row in rows]}
        click.echo(json.dumps(shown))
        return code
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for table in plan_tables(rows):
        console.print(table)
    for line in cost_lines(rows):
        console.print(line, style="dim", highlight=False)
    return code


def _run(settings: Sequence[Setting], jobs: int, waits: WaitsFile | None) -> tuple[list[tuple[Setting, Outcome]], int]:
    """What ended, in the order of `settings`, and the exit code."""
    progress, found, code = Progress(len(settings)), dict[Setting, Outcome](), 0
    try:
        for setting, outcome in run_all(settings, jobs, progress):
            found[setting] = outcome
            if waits is not None:
                waits.add(setting, outcome)
    except (KeyboardInterrupt, Terminated) as exc:
        code = TERMINATED if isinstance(exc, Terminated) else INTERRUPTED
        progress.interrupted(len(found))
    return [(one, found[one]) for one in settings if one in found], code


def _settings(trace: Path | None, rates: Path | None, more: dict[str, object]) -> Iterator[Setting]:
    nodes, budget, origin, hours = int(str(more["nodes"])), more["budget"], more["origin"], more["hours"]
    first = int(str(more["first_seed"]))
    known = [*POLICIES, OURS] if nodes == 1 else [name for name in (*POLICIES, OURS) if name != "clairvoyant"]
    names = known if more["policies"] == "all" else _policies(str(more["policies"]))
    shares = [-1.0] if more["announced"] == "trace" else _numbers(str(more["announced"]), "--announced")
    sizes = [0.0] if budget is not None else _numbers(str(more["ssd"]), "--ssd")
    schedulers = _checked([one.strip() for one in str(more["schedulers"]).split(",")], [*Scheduler], "scheduler")
    for ssd in sizes:
        for share in shares:
            for scheduler in schedulers:
                for seed in range(first, first + int(str(more["seeds"]))):
                    for policy in names:
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
                            None if hours is None else float(str(hours)),
                        )


def _policies(text: str) -> list[str]:
    """Names, some of which have a comma of their own."""
    parts, known, names = [one.strip() for one in text.split(",")], [*POLICIES, OURS], list[str]()
    while parts:
        one = parts.pop(0)
        if parts and f"{one}, {parts[0]}" in known:
            one = f"{one}, {parts.pop(0)}"
        names.append(one)
    return _checked(names, known, "policy")


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


def _rows(found: Iterable[tuple[Setting, Outcome]]) -> list[Row]:
    ended: dict[tuple[str, str, float, float], list[Outcome]] = {}
    for one, outcome in found:
        ended.setdefault((one.policy, str(one.scheduler), one.share, one.ssd), []).append(outcome)
    made = list[Row]()
    for key, own in ended.items():
        costs: tuple[Cost, ...] = tuple(one.cost for one in own)
        made.append(Row(*key, tuple(one.measures for one in own), costs))
    return made
