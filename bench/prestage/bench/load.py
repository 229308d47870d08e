"""`prestage bench load PATH`: our loader against the safetensors library's mmap, and verification against a bare hash pass.

One fresh process per run, variants in turns, each round in an order of its own; every run of one round loads the same files
and must come to the same sum over all bytes. `--cold` drops the page cache before each run and proves it. The files are loaded
through a folder of symlinks with fresh chunk sums, so that any folder can be measured, staged or not.

    --json: {"bench": "load", "machine", "framework", "cold", "rounds", "files", "bytes", "variants": {name: {"load_s", "touch_s",
             "total_s", "cpu_s": Summary}}, "ratios": {name: {"ratio": Summary, "verdict": Verdict, "goal"}}}
Ratios are speeds: ours/safetensors and verified/safetensors over load + touch, verified/xxh3... over load against the bare pass.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import xxhash
from rich.console import Console
from rich.table import Table

from prestage.bench.child import run_measured
from prestage.bench.cold import make_cold, make_warm
from prestage.bench.load_run import CHUNK_BYTES
from prestage.bench.machine import Machine, describe
from prestage.bench.rounds import Summary, Verdict, judge, ratios, schedule, summarize
from prestage.bench.scratch import scratch_folder
from prestage.cacher.errors import Bug, Misconfigured

_LOADERS = ("safetensors", "ours", "verified")
_PASSES = ("xxh3", "xxh3-threads")
_MEASURES = ("load_s", "touch_s", "total_s", "cpu_s")
_RATIOS: dict[str, tuple[str, str, str, float | None]] = {
    "ours/safetensors": ("ours", "safetensors", "total_s", 1.0),
    "verified/safetensors": ("verified", "safetensors", "total_s", None),
    "verified/xxh3": ("verified", "xxh3", "load_s", 0.5),
    "verified/xxh3-threads": ("verified", "xxh3-threads", "load_s", 0.5),
}
"""Name: numerator, denominator, measure, goal when hot (issue 3, section H)."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What to measure."""

    files: tuple[Path, ...]
    framework: str
    """"pt" or "np"."""
    cold: bool
    rounds: int
    seed: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Raw samples by variant and measure, in the order of the rounds."""

    job: LoadJob
    machine: Machine
    samples: Mapping[str, Sequence[Mapping[str, float]]]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.job.files)

    def measure(self, variant: str, name: str) -> Summary:
        """One measure of one variant over the rounds."""
        return summarize([sample[name] for sample in self.samples[variant]])

    def ratio(self, name: str) -> tuple[Summary, Verdict]:
        """How many times as fast, by round, and whether that may be quoted."""
        fast, slow, measure, _ = _RATIOS[name]
        over = {number: sample[measure] for number, sample in enumerate(self.samples[slow])}
        under = {number: sample[measure] for number, sample in enumerate(self.samples[fast])}
        found = ratios(over, under)
        if found is None:
            raise Bug(f"no round holds both {fast} and {slow}")
        foreign = [sample["foreign_cores"] for variant in (fast, slow) for sample in self.samples[variant]]
        return found, judge(found, foreign)

    def to_json(self) -> dict[str, object]:
        """As in the module's docstring."""
        quoted = {}
        for name, (*_, goal) in _RATIOS.items():
            found, verdict = self.ratio(name)
            quoted[name] = {"ratio": found.to_json(), "verdict": verdict.to_json(), "goal": None if self.job.cold else goal}
        return {
            "bench": "load",
            "machine": self.machine.to_json(),
            "framework": self.job.framework,
            "cold": self.job.cold,
            "rounds": self.job.rounds,
            "files": len(self.job.files),
            "bytes": self.size_bytes,
            "variants": {
                variant: {name: self.measure(variant, name).to_json() for name in _MEASURES} for variant in self.samples
            },
            "ratios": quoted,
        }


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--framework", type=click.Choice(["auto", "pt", "np"]), default="auto", show_default=True, help="auto: torch if here."
)
@click.option("--cold", is_flag=True, help="Drop the page cache before each run, and prove it.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, help="Of the order in which variants run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def load(path: Path, framework: str, cold: bool, rounds: int, seed: int, as_json: bool) -> None:
    """Load the safetensors files at PATH: ours, verified and not, against the safetensors library."""
    job = LoadJob(_files(path), _framework(framework), cold, rounds, seed)
    with scratch_folder(Path.cwd(), ".prestage-bench-") as scratch:
        result = measure(job, scratch, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        console = Console()
        _show(result, console if console.is_terminal else Console(width=160))


def measure(job: LoadJob, scratch: Path, tell: Callable[[str], None]) -> LoadResult:
    """Run all rounds.

    Raises:
        Bug: two variants of the job came to different sums: one of them loaded wrong bytes.
        ChildFailed, StillWarm
    """
    links = _view(job.files, scratch)
    samples: dict[str, list[dict[str, float]]] = {variant: [] for variant in (*_LOADERS, *_PASSES)}
    sums: set[float] = set()
    make_warm(job.files)
    for number, variant in schedule(tuple(samples), job.rounds, job.seed):
        if job.cold:
            make_cold(job.files)
        sample = _run(variant, job.framework, links)
        samples[variant].append(sample)
        if variant in _LOADERS:
            sums.add(sample["sum"])
        tell(f"round {number + 1} of {job.rounds}: {variant} {sample['total_s']:.3f} s")
    if len(sums) != 1:
        raise Bug(f"the loaders disagree about the bytes of {str(job.files[0])!r}", hint="report it, with the file")
    return LoadResult(job, describe(job.files[0].parent), samples)


def _run(variant: str, framework: str, files: Sequence[Path]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = (sys.executable, "-m", "prestage.bench.load_run", variant, framework, *map(str, files))
    ran = run_measured(command, cwd=Path.cwd(), environment=environment)
    sample: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return {**sample, "total_s": sample["load_s"] + sample["touch_s"], "foreign_cores": ran.foreign_cores}


def _files(path: Path) -> tuple[Path, ...]:
    found = (path,) if path.is_file() else tuple(sorted(path.glob("*.safetensors")))
    if not found:
        raise Misconfigured(
            f"no *.safetensors in {str(path)!r}", hint="name a model's folder; `prestage bench make-model` writes one"
        )
    return tuple(file.absolute() for file in found)


def _framework(wanted: str) -> str:
    name = ("pt" if importlib.util.find_spec("torch") else "np") if wanted == "auto" else wanted
    for module in ("safetensors", "torch" if name == "pt" else "numpy"):
        if not importlib.util.find_spec(module):
            raise Misconfigured(f"`prestage bench load` needs {module}, which is not installed", hint=f"pip install {module}")
    return name


def _view(files: Sequence[Path], scratch: Path) -> tuple[Path, ...]:
    """Symlinks to `files` and their sums, in the layout of docs/format.md."""
    entries = {}
    for file in files:
        (scratch / file.name).symlink_to(file)
        entries[file.name] = {"size": file.stat().st_size, "chunks": _chunk_sums(file)}
    (scratch / ".prestage").mkdir()
    head = {"format": 1, "artifact": "sha256:" + "0" * 64, "algorithm": "xxh3-128", "chunk_bytes": CHUNK_BYTES}
    (scratch / ".prestage" / "sums").write_text(json.dumps({**head, "files": entries}))
    return tuple(scratch / file.name for file in files)


def _chunk_sums(file: Path) -> str:
    sums = []
    with open(file, "rb", buffering=0) as source:
        while chunk := source.read(CHUNK_BYTES):
            sums.append(xxhash.xxh3_128_hexdigest(chunk))
    return "".join(sums)


def _show(result: LoadResult, console: Console) -> None:
    job, gigabytes = result.job, result.size_bytes / 1e9
    console.print(f"[bold]{len(job.files)} files, {gigabytes:.2f} GB, {job.framework}, {'cold' if job.cold else 'hot'}[/bold]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("VARIANT", "LOAD", "TOUCH", "TOTAL", "RANGE", "GB/S", "CPU S/GB"):
        table.add_column(name, justify="left" if name == "VARIANT" else "right")
    for variant in result.samples:
        load_s, touch_s, total_s, cpu_s = (result.measure(variant, name) for name in _MEASURES)
        times = (f"{summary.median * 1000:.0f} ms" for summary in (load_s, touch_s, total_s))
        spread = f"{total_s.low * 1000:.0f} - {total_s.high * 1000:.0f} ms"
        table.add_row(variant, *times, spread, f"{gigabytes / total_s.median:.1f}", f"{cpu_s.median / gigabytes:.3f}")
    console.print(table)
    for name, (*_, goal) in _RATIOS.items():
        found, verdict = result.ratio(name)
        wanted = f", goal {goal:.1f}x" if goal and not job.cold else ""
        doubt = f"  [yellow]noisy: {'; '.join(verdict.reasons)}[/yellow]" if verdict.noisy else ""
        console.print(f"{name}: [bold]{found.median:.2f}x[/bold] ({found.low:.2f} - {found.high:.2f}){wanted}{doubt}")
    console.print(result.machine.line(), style="dim")
