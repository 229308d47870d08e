"""`prestage bench load PATH`: our loader against its rivals, hot, cold and half resident, beside the limits of disk and device.

One fresh process a run, variants in turns, each round in an order of its own; every loader of a job must come to the same sum
over all bytes. Cold is proved, half is every other 32 MiB. The files are loaded through a folder of symlinks with fresh chunk
sums, so that any folder can be measured, staged or not.

    --json: {"bench": "load", "machine", "framework", "device", "rounds", "files", "bytes", "not_run": {loader: why},
             "rows": [{"loader", "state", "verify", "gb_per_s", "cpu_s_per_gb", "peak_rss_mib", "disk_share", "ratio_to_raw",
                       "ratio_to_mmap", "summaries"}],
             "goals": [{"name", "asked", "at_most", "measured", "met"}], "noisy": [reasons]}
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import xxhash
from rich.console import Console
from rich.table import Table

from prestage.bench import load_child
from prestage.bench.cold import make_cold, make_warm
from prestage.bench.load_job import (
    CPU,
    READ_PAST_THE_CACHE,
    RETURN_NOTHING,
    STATES,
    LoadJob,
    check_device,
    device_named,
    states_of,
)
from prestage.bench.load_rows import SCRIPT, Goal, Row, goals, rows
from prestage.bench.load_run import CHUNK_BYTES
from prestage.bench.machine import Machine, describe
from prestage.bench.rounds import FOREIGN_CORES_MAX, schedule, summarize
from prestage.bench.scratch import scratch_folder
from prestage.cacher.errors import Bug, Misconfigured
from prestage.loader import SafetensorError, checkpoint

_STRIPE_BYTES = 32 << 20
_SPARE_BYTES = 512 << 20


@dataclass(slots=True)
class LoadResult:
    """Samples by variant and state, then by round."""

    job: LoadJob
    machine: Machine
    size_bytes: int
    not_run: dict[str, str]
    samples: dict[tuple[str, str], dict[int, dict[str, float]]] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """One for each variant and state."""
        return rows(self.samples, self.size_bytes)

    def goals(self) -> list[Goal]:
        """Those that can be told from the samples."""
        found = goals(self.samples, on_device=self.job.on_device)
        shared = self.samples.get(("prestage-shared", "cold"))
        if shared:
            read = [sample["disk_bytes"] / self.size_bytes for sample in shared.values()]
            found.append(Goal(f"{self.job.ranks} ranks: bytes from disk / checkpoint", 1.05, summarize(read), at_most=True))
        return found

    def noisy(self) -> list[str]:
        """Why these figures should not be quoted."""
        found = []
        foreign = [sample["foreign_cores"] for by_round in self.samples.values() for sample in by_round.values()]
        disturbed = sum(cores > FOREIGN_CORES_MAX for cores in foreign)
        if disturbed * 3 > len(foreign):
            runs = f"{disturbed} of {len(foreign)} runs (up to {max(foreign):.1f})"
            found.append(f"other processes used over {FOREIGN_CORES_MAX} cores in {runs}")
        hot = [
            sample["disk_bytes"]
            for (variant, state), by_round in self.samples.items()
            if state == "hot" and variant not in READ_PAST_THE_CACHE
            for sample in by_round.values()
        ]
        cooled = sum(read > self.size_bytes // 100 for read in hot)
        if cooled:
            found.append(f"{cooled} of {len(hot)} hot runs read from the disk: the system took files out of the page cache")
        return found

    def to_json(self) -> dict[str, object]:
        """As in the module's docstring."""
        return {
            "bench": "load",
            "machine": self.machine.to_json(),
            "framework": self.job.framework,
            "device": self.job.device,
            "rounds": self.job.rounds,
            "files": len(self.job.files),
            "bytes": self.size_bytes,
            "not_run": self.not_run,
            "rows": [row.to_json() for row in self.rows()],
            "goals": [goal.to_json() for goal in self.goals()],
            "noisy": self.noisy(),
        }


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--framework", type=click.Choice(["auto", "pt", "np"]), default="auto", show_default=True, help="auto: torch if here."
)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Repeatable; default: all. script: a serving script from its first line on.",
)
@click.option("--device", default=CPU, show_default=True, help="cuda or cuda:N: to a GPU, with torch, hot and cold.")
@click.option("--loaders", default="all", show_default=True, help="Names separated by commas, as the rows have them.")
@click.option("--ranks", default=1, show_default=True, type=click.IntRange(1, 16), help="Load cold in so many processes at once.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, help="Of the order in which variants run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def load(
    path: Path,
    framework: str,
    states: tuple[str, ...],
    device: str,
    loaders: str,
    ranks: int,
    rounds: int,
    seed: int,
    as_json: bool,
) -> None:
    """Load the safetensors files at PATH: ours and its rivals, hot, cold and half in the page cache, to memory or to a GPU."""
    wanted = None if loaders == "all" else frozenset(loaders.split(","))
    device = device_named(device)
    if ranks > 1 and (states or wanted):
        raise Misconfigured(
            "--ranks measures what it measures: cold, ours and safetensors", hint="leave out --state and --loaders"
        )
    states = states_of(device, states, ranks)
    job = LoadJob(_files(path), _framework(framework, device), states, wanted, rounds, seed, ranks, device)
    if job.on_device:
        check_device(device, load_child.cuda_devices())
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
        Bug: two loaders of the job came to different sums: one of them loaded wrong bytes.
        ChildFailed, StillWarm, Misconfigured
    """
    links = _view(job.files, scratch)
    variants, not_run = job.variants()
    result = LoadResult(job, describe(job.files[0].parent), sum(file.stat().st_size for file in job.files), not_run)
    result.samples = {variant: {} for variant in variants}
    sums: set[float] = set()
    names = [f"{variant} {state}" for variant, state in variants]
    for number, name in schedule(names, job.rounds, job.seed):
        variant, state = name.split(" ")
        ready = partial(prepare, job.files, state)
        ready()
        memory = _SPARE_BYTES if job.takes_no_memory(variant, state) else result.size_bytes + _SPARE_BYTES
        if state == SCRIPT:
            sample = load_child.run_script(variant, job.framework, links[0].parent, memory, ready)
            result.samples[variant, state][number] = sample
            tell(f"round {number + 1} of {job.rounds}: {variant} {sample['total_s']:.3f} s")
            continue
        ran = load_child.run([variant] * job.ranks, job.framework, links, memory, ready, device=job.device)
        result.samples[variant, state][number] = _together(ran)
        if variant not in RETURN_NOTHING:
            sums |= {sample["sum"] for sample in ran}
        tell(f"round {number + 1} of {job.rounds}: {name} {ran[0]['total_s']:.3f} s")
    if len(sums) > 1:
        raise Bug(f"the loaders disagree about the bytes of {str(job.files[0])!r}", hint="report it, with the file")
    return result


def prepare(files: Sequence[Path], state: str) -> None:
    """Have the files hot, cold (for a script too), or every other 32 MiB resident. Raises: StillWarm."""
    if state == "hot":
        make_warm(files)
        return
    make_cold(files)
    if state == "half":
        stripe = bytearray(_STRIPE_BYTES)
        for file in files:
            with open(file, "rb", buffering=0) as source:
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                for offset in range(0, file.stat().st_size, 2 * _STRIPE_BYTES):
                    os.preadv(source.fileno(), [stripe], offset)


def _together(ran: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of processes that ran at once: the slowest one's time, everybody's bytes."""
    slowest = max(ran, key=lambda sample: sample["total_s"])
    summed = {name: sum(sample[name] for sample in ran) for name in ("cpu_s", "disk_bytes")}
    return {**slowest, **summed, "beyond_bytes": max(sample["beyond_bytes"] for sample in ran)}


def _files(path: Path) -> tuple[Path, ...]:
    """What `open_model` loads of it: a folder may hold more, say the shards of an earlier checkpoint."""
    try:
        found = checkpoint.read(str(path), "off")
    except (SafetensorError, OSError) as exc:
        raise Misconfigured(str(exc), hint="name a model's folder; `prestage bench make-model` writes one") from exc
    return tuple(Path(shard.path).absolute() for shard in found.shards)


def _framework(wanted: str, device: str) -> str:
    name = ("pt" if importlib.util.find_spec("torch") else "np") if wanted == "auto" else wanted
    if device != CPU and name != "pt":
        raise Misconfigured(f"--device {device} needs torch, not {name}", hint="pip install torch, and say --framework pt")
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
    job = result.job
    head = f"{len(job.files)} files, {result.size_bytes / 1e9:.2f} GB, {job.framework}, {job.device}, {job.rounds} rounds"
    console.print(f"[bold]{head}[/bold]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("STATE", "LOADER", "VERIFY", "GB/S", "RANGE", "CPU S/GB", "RSS MIB", "DISK", "VS RAW", "VS MMAP"):
        table.add_column(name, justify="left" if name in ("STATE", "LOADER", "VERIFY") else "right")
    found = result.rows()
    for row in found:
        speed = row.gb_per_s
        table.add_row(
            row.state, row.loader, row.verify, f"{speed.median:.2f}", f"{speed.low:.2f}-{speed.high:.2f}",
            f"{row.cpu_s_per_gb:.3f}", f"{row.peak_rss_mib:.0f}", f"{row.disk_share:.2f}x",
            f"{row.ratio_to_raw.median:.2f}x" if row.ratio_to_raw else "-",
            f"{row.ratio_to_mmap.median:.2f}x" if row.ratio_to_mmap else "-",
        )  # fmt: skip
    if found:
        console.print(table)
    for goal in result.goals():
        measured = goal.measured
        sign = "<=" if goal.at_most else ">="
        met = "met" if goal.met else "[red]missed[/red]"
        console.print(
            f"{goal.name}: [bold]{measured.median:.2f}[/bold] ({measured.interval}, all {measured.low:.2f}-{measured.high:.2f}), "
            f"{sign} {goal.asked}: {met}"
        )
    for name, why in result.not_run.items():
        console.print(f"not run: {name} ({why})", style="dim")
    for reason in result.noisy():
        console.print(f"noisy: {reason}", style="yellow")
    console.print(result.machine.line(), style="dim")
