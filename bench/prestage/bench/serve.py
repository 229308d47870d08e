"""`prestage bench serve`: one blob from the page cache to many connections, our server against nginx and aiohttp's FileResponse.

All servers run at once, each with as many workers; one is asked at a time, in turns. The client (`drain.py`) drops the bodies in
the kernel. CPU is that of all of a server's processes. JSON (`to_json`, `schema` 1):

    {"bench": "serve", "schema": 1, "date", "bytes", "connections", "workers", "machine": {...}, "rounds", "seed",
     "servers": {NAME: {"version", "gb_per_s": SUMMARY, "cpu_s_per_gb": SUMMARY, "rss_mib"}}, "skipped": {NAME: REASON},
     "ours_over": {RIVAL: {"speed": {SUMMARY, "noisy", "reasons", "goal"}, "cpu": {...}}},
     "samples": [{"round", "server", "bytes", "wall_s", "server_cpu_s", "client_cpu_s", "rss_bytes", "foreign_cores"}]}
    SUMMARY as in `fetch.py`; GB = 1e9 bytes; goals are against nginx
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.bench import machine
from prestage.bench.child import run_measured
from prestage.bench.cold import make_warm
from prestage.bench.rivals.ports import Unfit
from prestage.bench.rounds import Summary, Verdict, judge, ratios, schedule, summarize
from prestage.bench.servers import OURS, SERVERS, Running, Served
from prestage.bench.stocked import stock
from prestage.cacher.store.store import Store

GOALS = {"speed": 0.95, "cpu": 1.2}
"""Against nginx with as many workers: at least this speed, at most this CPU per byte."""
_RUN_S = 300.0


@dataclass(frozen=True, slots=True)
class ServeJob:
    """What to measure."""

    scratch: Path
    size_bytes: int
    connections: int = 8
    workers: int = 2
    rounds: int = 5
    seed: int = 1
    servers: tuple[str, ...] = tuple(SERVERS)


@dataclass(frozen=True, slots=True)
class ServeSample:
    """One server, asked once by every connection."""

    round: int
    server: str
    bytes: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    rss_bytes: int
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class ServeResult:
    """All samples, and what they come to."""

    job: ServeJob
    machine: machine.Machine
    date: str
    samples: tuple[ServeSample, ...]
    versions: Mapping[str, str]
    skipped: Mapping[str, str]

    @property
    def servers(self) -> tuple[str, ...]:
        """Those with samples, fastest first."""
        names = {sample.server for sample in self.samples}
        return tuple(sorted(names, key=lambda name: -self.gb_per_s(name).median))

    def of(self, server: str) -> list[ServeSample]:
        """Its samples, by round."""
        return sorted((sample for sample in self.samples if sample.server == server), key=lambda sample: sample.round)

    def gb_per_s(self, server: str) -> Summary:
        """Bytes over wall time."""
        return summarize([sample.bytes / 1e9 / sample.wall_s for sample in self.of(server)])

    def cpu_s_per_gb(self, server: str) -> Summary:
        """Of all of the server's processes."""
        return summarize([sample.server_cpu_s / (sample.bytes / 1e9) for sample in self.of(server)])

    def rss_mib(self, server: str) -> float:
        """Of all of the server's processes, at most."""
        return max(sample.rss_bytes for sample in self.of(server)) / 2**20

    def ours_over(self, rival: str) -> dict[str, tuple[Summary, Verdict]]:
        """`speed`: our GB/s over the rival's; `cpu`: our CPU s/GB over the rival's; pair by pair."""
        ours, theirs = self.of(OURS), self.of(rival)
        foreign = [sample.foreign_cores for sample in (*ours, *theirs)]
        found = {}
        for what, ratio in (
            ("speed", ratios({s.round: s.wall_s for s in theirs}, {s.round: s.wall_s for s in ours})),
            ("cpu", ratios({s.round: s.server_cpu_s for s in ours}, {s.round: s.server_cpu_s for s in theirs})),
        ):
            if ratio is not None:
                found[what] = (ratio, judge(ratio, foreign))
        return found

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        over = {
            rival: {
                what: {**ratio.to_json(), **verdict.to_json(), "goal": GOALS[what] if rival == "nginx" else None}
                for what, (ratio, verdict) in self.ours_over(rival).items()
            }
            for rival in self.servers
            if rival != OURS
        }
        return {
            "bench": "serve",
            "schema": 1,
            "date": self.date,
            "bytes": self.job.size_bytes,
            "connections": self.job.connections,
            "workers": self.job.workers,
            "machine": self.machine.to_json(),
            "rounds": self.job.rounds,
            "seed": self.job.seed,
            "servers": {
                name: {
                    "version": self.versions[name],
                    "gb_per_s": self.gb_per_s(name).to_json(),
                    "cpu_s_per_gb": self.cpu_s_per_gb(name).to_json(),
                    "rss_mib": round(self.rss_mib(name), 1),
                }
                for name in self.servers
            },
            "skipped": dict(self.skipped),
            "ours_over": over,
            "samples": [asdict(sample) for sample in self.samples],
        }


def measure(job: ServeJob, told: Callable[[str], None]) -> ServeResult:
    """Make a store with one blob, start the servers, ask them in turns. `told` hears one line a step.

    Raises:
        ChildFailed: a server answered wrongly or not at all.
    """
    root = job.scratch / "store"
    told("making a store with one blob ...")
    with Store.open(root, own=True, margin_bytes=0) as store:
        blob = stock(store, "served", {"blob.bin": job.size_bytes}).blobs[0]
    samples: list[ServeSample] = []
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for name in job.servers:
            state = job.scratch / name
            state.mkdir()
            try:
                running[name] = stack.enter_context(SERVERS[name](Served(root, blob, job.workers, state)))
            except Unfit as exc:
                skipped[name] = str(exc)
        make_warm([Served(root, blob, job.workers, root).file])
        for number, name in schedule(tuple(running), job.rounds, job.seed):
            sample = _run(job, number, name, running[name])
            samples.append(sample)
            speed, cost = sample.bytes / 1e9 / sample.wall_s, sample.server_cpu_s / (sample.bytes / 1e9)
            told(f"round {number + 1} of {job.rounds}: {name} {speed:.2f} GB/s, {cost:.3f} CPU s/GB")
    versions = {name: server.version for name, server in running.items()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return ServeResult(job, machine.describe(job.scratch), date, tuple(samples), versions, skipped)


def _run(job: ServeJob, number: int, name: str, server: Running) -> ServeSample:
    command = [sys.executable, "-m", "prestage.bench.drain", server.url, "--connections", str(job.connections)]
    ran = run_measured(
        command,
        cwd=job.scratch,
        environment={**os.environ, **server.environment},
        server_pids=server.pids,
        timeout_s=_RUN_S,
    )
    told = json.loads(ran.stdout)
    rss = machine.resident_bytes(server.pids)
    return ServeSample(number, name, told["bytes"], told["seconds"], ran.server_cpu_s, ran.cpu_s, rss, ran.foreign_cores)


def serve_table(result: ServeResult) -> RenderableType:
    """GB/s, CPU and memory by server, fastest first, and ours over each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("SERVER")
    for name in ("GB/s", "RANGE", "CPU s/GB", "RANGE", "PSS MiB", "OUR SPEED", "OUR CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    notes = [Text(f"{name} did not take part: {why}", style="dim") for name, why in result.skipped.items()]
    for name in result.servers:
        speed, cost = result.gb_per_s(name), result.cpu_s_per_gb(name)
        over = result.ours_over(name) if name != OURS else {}
        shares = [f"{over[what][0].median:.2f}x{'?' if over[what][1].noisy else ''}" if what in over else "-" for what in GOALS]
        spans = [f"{value.low:.2f} - {value.high:.2f}" for value in (speed, cost)]
        table.add_row(
            Text(name, style="bold" if name == OURS else ""),
            *(f"{speed.median:.2f}", spans[0], f"{cost.median:.3f}", spans[1], f"{result.rss_mib(name):.0f}", *shares),
        )
        doubts = dict.fromkeys(reason for _, verdict in over.values() for reason in verdict.reasons)
        if doubts:
            notes.append(Text(f"too noisy to conclude ({OURS} against {name}): {'; '.join(doubts)}", style="yellow"))
    job = result.job
    title = f"{job.size_bytes / 1e9:.1f} GB from the page cache, {job.connections} connections, {job.workers} workers"
    goals = f"goals against nginx: speed >= {GOALS['speed']}x, CPU <= {GOALS['cpu']}x"
    notes += [Text(f"{goals}; medians of {job.rounds} rounds; {result.machine.line()}", style="dim")]
    return Group(Text(title, style="bold"), Text(), table, Text(), *notes)
