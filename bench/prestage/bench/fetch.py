"""`prestage bench fetch`: one object from one server to disk, ours against the rivals, each in a process of its own.

In the time: start of the process, transfer, whatever it verifies, and making the bytes durable (ours does that before it
returns; after a rival ends we fsync its file and count that to it). After the time: every byte is hashed and compared with what a
plain single-stream read gave, so that a tool that is fast and wrong is not fast. JSON (`to_json`, `schema` 1):

    {"bench": "fetch", "schema": 1, "date", "ref", "bytes", "blake3", "connections", "machine": {...}, "rounds", "seed",
     "tools": {NAME: {"version", "command", "gb_per_s": SUMMARY, "cpu_s_per_gb": SUMMARY, "rss_mib": SUMMARY}},
     "skipped": {NAME: REASON}, "failed": {NAME: [REASON]}, "fastest_rival": NAME | null,
     "ours_over": {RIVAL: {"speed": {SUMMARY, "noisy", "reasons"}, "cpu": {SUMMARY, "noisy", "reasons"}}},
     "samples": [{"round", "tool", "wall_s", "cpu_s", "server_cpu_s", "rss_bytes", "foreign_cores"}]}
    SUMMARY = {"median", "low", "high", "spread", "interval", "values"}; GB = 1e9 bytes; CPU is the tool's whole process tree
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from blake3 import blake3

from prestage.bench import machine, staged
from prestage.bench.child import ChildFailed, run_measured
from prestage.bench.reference import Reference
from prestage.bench.rivals.known import OURS, TOOLS
from prestage.bench.rivals.ports import Invocation, Target, Unfit
from prestage.bench.rounds import Summary, Verdict, judge, ratios, schedule, summarize
from prestage.bench.scratch import scratch_folder
from prestage.cacher.errors import Corrupt, Full

_RUN_S_MIN = 120.0
_RUN_READS = 10
"""A run that takes this many times as long as a plain single-stream read has hung."""
_QUIET_CORES = 0.3
_QUIET_WAIT_S = 20.0
_MARGIN_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class FetchJob:
    """What to measure."""

    target: Target
    scratch: Path
    """On the disk to be measured; emptied after each run."""
    tools: tuple[str, ...]
    rounds: int = 5
    seed: int = 1
    server_pids: tuple[int, ...] = ()
    """The server's processes when it runs here; default: found by its port."""


@dataclass(frozen=True, slots=True)
class FetchSample:
    """One run of one tool; the bytes were right."""

    round: int
    tool: str
    wall_s: float
    cpu_s: float
    server_cpu_s: float
    rss_bytes: int
    foreign_cores: float

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        rounded = {name: round(getattr(self, name), 4) for name in ("wall_s", "cpu_s", "server_cpu_s", "foreign_cores")}
        return {"round": self.round, "tool": self.tool, **rounded, "rss_bytes": self.rss_bytes}


@dataclass(frozen=True, slots=True)
class FetchResult:
    """All samples, and what they come to."""

    job: FetchJob
    reference: Reference
    machine: machine.Machine
    date: str
    samples: tuple[FetchSample, ...]
    about: Mapping[str, tuple[str, str]]
    """Tool -> version, command."""
    skipped: Mapping[str, str]
    failed: Mapping[str, Sequence[str]]

    @property
    def tools(self) -> tuple[str, ...]:
        """Those with samples, fastest first."""
        names = {sample.tool for sample in self.samples}
        return tuple(sorted(names, key=lambda name: -self.gb_per_s(name).median))

    @property
    def fastest_rival(self) -> str | None:
        """By median GB/s."""
        return next((name for name in self.tools if name != OURS), None)

    def gb_per_s(self, tool: str) -> Summary:
        """Bytes over wall time."""
        return summarize([self.reference.size_bytes / 1e9 / sample.wall_s for sample in self.of(tool)])

    def cpu_s_per_gb(self, tool: str) -> Summary:
        """Of the tool's process tree."""
        return summarize([sample.cpu_s / (self.reference.size_bytes / 1e9) for sample in self.of(tool)])

    def rss_mib(self, tool: str) -> Summary:
        """Peak of the tool's process tree."""
        return summarize([sample.rss_bytes / 2**20 for sample in self.of(tool)])

    def of(self, tool: str) -> list[FetchSample]:
        """Its samples, by round."""
        return sorted((sample for sample in self.samples if sample.tool == tool), key=lambda sample: sample.round)

    def ours_over(self, rival: str) -> dict[str, tuple[Summary, Verdict]]:
        """`speed`: our GB/s over the rival's; `cpu`: our CPU s/GB over the rival's; pair by pair."""
        ours, theirs = self.of(OURS), self.of(rival)
        foreign = [sample.foreign_cores for sample in (*ours, *theirs)]
        found = {}
        for what, ratio in (
            ("speed", ratios({s.round: s.wall_s for s in theirs}, {s.round: s.wall_s for s in ours})),
            ("cpu", ratios({s.round: s.cpu_s for s in ours}, {s.round: s.cpu_s for s in theirs})),
        ):
            if ratio is not None:
                found[what] = (ratio, judge(ratio, foreign))
        return found

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        rivals = [name for name in self.tools if name != OURS]
        over = {
            rival: {what: {**ratio.to_json(), **verdict.to_json()} for what, (ratio, verdict) in self.ours_over(rival).items()}
            for rival in rivals
        }
        return {
            "bench": "fetch",
            "schema": 1,
            "date": self.date,
            "ref": self.job.target.ref,
            "bytes": self.reference.size_bytes,
            "blake3": self.reference.blake3,
            "connections": self.job.target.connections,
            "machine": self.machine.to_json(),
            "rounds": self.job.rounds,
            "seed": self.job.seed,
            "tools": {name: self._tool_json(name) for name in self.tools},
            "skipped": dict(self.skipped),
            "failed": {name: list(reasons) for name, reasons in self.failed.items()},
            "fastest_rival": self.fastest_rival,
            "ours_over": over,
            "samples": [sample.to_json() for sample in self.samples],
        }

    def _tool_json(self, name: str) -> dict[str, object]:
        version, command = self.about[name]
        return {
            "version": version,
            "command": command,
            "gb_per_s": self.gb_per_s(name).to_json(),
            "cpu_s_per_gb": self.cpu_s_per_gb(name).to_json(),
            "rss_mib": self.rss_mib(name).to_json(),
        }


def measure(job: FetchJob, reference: Reference, told: Callable[[str], None]) -> FetchResult:
    """Run every tool in every round. `told` hears one line per step.

    Raises:
        Corrupt: our own result has other bytes than `reference`.
        ChildFailed: our own run failed. A rival that fails is left out and named in the result.
        Full: the object does not fit on the disk.
    """
    free = shutil.disk_usage(job.scratch).free
    if free < reference.size_bytes + _MARGIN_BYTES:
        needed = f"{reference.size_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        raise Full(f"the object takes {needed} under {str(job.scratch)!r}", hint="name another disk with --dir")
    described = machine.describe(job.scratch)
    about, skipped = _line_up(job)
    samples: list[FetchSample] = []
    failed: dict[str, list[str]] = {}
    for number, tool in schedule(tuple(about), job.rounds, job.seed):
        told(f"round {number + 1} of {job.rounds}: {tool} ...")
        try:
            sample = _run(job, reference, number, tool)
        except (ChildFailed, Corrupt) as exc:
            if tool == OURS:
                raise
            failed.setdefault(tool, []).append(exc.message)
            told(f"round {number + 1} of {job.rounds}: {tool} failed: {exc.message}")
            continue
        samples.append(sample)
        speed, cost = reference.size_bytes / 1e9 / sample.wall_s, sample.cpu_s / (reference.size_bytes / 1e9)
        told(f"round {number + 1} of {job.rounds}: {tool} {speed:.2f} GB/s, {cost:.2f} CPU s/GB")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return FetchResult(job, reference, described, date, tuple(samples), about, skipped, failed)


def _line_up(job: FetchJob) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Who takes part (version, command), and who does not (why)."""
    about: dict[str, tuple[str, str]] = {}
    skipped: dict[str, str] = {}
    for tool in job.tools:
        try:
            invocation = TOOLS[tool](job.target, job.scratch / "RUN")
        except Unfit as exc:
            skipped[tool] = str(exc)
            continue
        about[tool] = (_version(invocation), " ".join(invocation.command))
    return about, skipped


def _version(invocation: Invocation) -> str:
    done = subprocess.run(invocation.version_command, capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0][:80] if lines else "unknown"


def _run(job: FetchJob, reference: Reference, number: int, tool: str) -> FetchSample:
    with scratch_folder(job.scratch, "run-") as folder:
        invocation = TOOLS[tool](job.target, folder)
        servers = job.server_pids or _local_servers(job.target)
        _wait_until_quiet()
        ran = run_measured(
            invocation.command,
            cwd=folder,
            environment={**os.environ, **invocation.environment},
            server_pids=servers,
            timeout_s=max(_RUN_S_MIN, _RUN_READS * reference.read_s),
        )
        output = invocation.output or _staged_file(ran.stdout)
        synced = _sync(output)
        _verify(tool, output, reference)
    return FetchSample(
        number, tool, ran.wall_s + synced[0], ran.cpu_s + synced[1], ran.server_cpu_s, ran.rss_bytes, ran.foreign_cores
    )


def _staged_file(output: str) -> Path:
    folder = Path(str(staged.last_event(output)["path"]))
    return next(file for file in folder.rglob("*") if file.is_file())


def _sync(file: Path) -> tuple[float, float]:
    """Make it durable: wall and CPU seconds that took."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_THREAD)
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _verify(tool: str, file: Path, reference: Reference) -> None:
    digest = blake3()
    digest.update_mmap(file)
    if digest.hexdigest() != reference.blake3:
        raise Corrupt(f"{tool} wrote other bytes than the server has", hint="run the bench again; then suspect the tool")


def _wait_until_quiet() -> None:
    """Let other processes finish, for a while: what goes on after that is recorded with the run."""
    deadline = time.monotonic() + _QUIET_WAIT_S
    while time.monotonic() < deadline:
        watch = machine.LoadWatch()
        time.sleep(0.4)
        if watch.foreign_cores(0.0) < _QUIET_CORES:
            return


def _local_servers(target: Target) -> tuple[int, ...]:
    parts = urlsplit(target.endpoint or target.ref)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return ()
    return tuple(sorted(machine.listeners(parts.port or {"https": 443}.get(parts.scheme, 80))))
