"""`prestage bench start`: how long until a serving process answers, cold as today and with the model staged.

One fresh process per run (`serving.py`), variants alternated by round:

    cold-origin   the usual client downloads into an empty folder, then safetensors: a pod on a node that has nothing
    cold-disk     staged; the page cache is dropped, and proved dropped, before the run
    warm          staged, and in the page cache
    ...+loader    the two staged ones with prestage.loader in place of safetensors (where that is installed)

Every run must give the same answer, else the bench fails. JSON (`to_json`, `schema` 1):

    {"bench": "start", "schema": 1, "date", "ref", "artifact", "files", "bytes", "link_bytes_per_s", "cold_client",
     "machine": {...}, "rounds", "seed", "stage": {"seconds", "bytes_by_source"}, "formula", "same_answer": true,
     "variants": {NAME: {"what", "total_s": SUMMARY, "phases": {"import"|"fetch"|"load"|"first_use": SUMMARY}}},
     "speedups": {NAME: {"over": "cold-origin", "ratio": SUMMARY, "noisy", "reasons"}},
     "samples": [{"round", "variant", "import_s", "fetch_s", "load_s", "first_use_s", "total_s", "cpu_s", "rss_bytes",
                  "foreign_cores"}]}
    SUMMARY = {"median", "low", "high", "spread", "interval", "values"}; seconds everywhere; spread = (high - low) / median
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from prestage.bench import cold, machine, staged, usual
from prestage.bench.child import run_measured
from prestage.bench.rounds import Summary, Verdict, judge, ratios, schedule, summarize
from prestage.bench.scratch import scratch_folder
from prestage.cacher.errors import Corrupt, Full

PHASES = ("import", "fetch", "load", "first_use")
COLD, DISK, WARM = "cold-origin", "cold-disk", "warm"
LOADER = "+loader"
FORMULA = "speed-up = total(cold-origin) / total(variant), round by round; the median of the rounds is quoted"
WHAT = {
    COLD: "empty cache: {client} downloads, safetensors loads",
    DISK: "staged, page cache dropped; safetensors loads",
    WARM: "staged and in the page cache; safetensors loads",
    DISK + LOADER: "staged, page cache dropped; prestage.loader loads",
    WARM + LOADER: "staged and in the page cache; prestage.loader loads",
}
_MARGIN_BYTES = 512 << 20
_RUN_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class StartJob:
    """What to measure."""

    ref: str
    root: Path
    scratch: Path
    """Cold downloads go to new folders below; removed after each run."""
    rounds: int = 3
    seed: int = 1
    with_cold_origin: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the clients and for staging, on top of ours: HF_ENDPOINT and the like."""
    server_pids: tuple[int, ...] = ()
    """A local origin, so that its work does not count as foreign load."""
    link_bytes_per_s: float | None = None
    """Speed of the local origin's link, for the record."""


@dataclass(frozen=True, slots=True)
class StartSample:
    """One process."""

    round: int
    variant: str
    phases: Mapping[str, float]
    """Seconds by name in PHASES."""
    cpu_s: float
    rss_bytes: int
    foreign_cores: float
    answer: str

    @property
    def total_s(self) -> float:
        """From the spawn to the first answer."""
        return sum(self.phases.values())

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        phases = {f"{name}_s": round(seconds, 6) for name, seconds in self.phases.items()}
        rest = {"cpu_s": self.cpu_s, "rss_bytes": self.rss_bytes, "foreign_cores": round(self.foreign_cores, 3)}
        return {"round": self.round, "variant": self.variant, **phases, "total_s": round(self.total_s, 6), **rest}


@dataclass(frozen=True, slots=True)
class StartResult:
    """All samples, and what they come to."""

    job: StartJob
    stage: staged.StageDone
    machine: machine.Machine
    date: str
    samples: tuple[StartSample, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """Those that ran, slowest story first."""
        return tuple(name for name in WHAT if any(sample.variant == name for sample in self.samples))

    def what(self, variant: str) -> str:
        """One line about a variant."""
        return WHAT[variant].format(client=usual.client_of(self.job.ref))

    def total(self, variant: str) -> Summary:
        """Seconds until the first answer."""
        return summarize([sample.total_s for sample in self._of(variant)])

    def phase(self, variant: str, phase: str) -> Summary:
        """Seconds of one phase."""
        return summarize([sample.phases[phase] for sample in self._of(variant)])

    def speedup(self, variant: str) -> tuple[Summary, Verdict] | None:
        """How much sooner than cold-origin; None where that did not run."""
        over = {sample.round: sample.total_s for sample in self._of(COLD)}
        ratio = ratios(over, {sample.round: sample.total_s for sample in self._of(variant)})
        if ratio is None:
            return None
        foreign = [sample.foreign_cores for name in (COLD, variant) for sample in self._of(name)]
        return ratio, judge(ratio, foreign)

    def answer(self) -> str:
        """Base64; the same in every run."""
        return self.samples[0].answer

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        speedups = {}
        for name in self.variants[1:] if COLD in self.variants else ():
            if found := self.speedup(name):
                speedups[name] = {"over": COLD, "ratio": found[0].to_json(), **found[1].to_json()}
        return {
            "bench": "start",
            "schema": 1,
            "date": self.date,
            "ref": self.job.ref,
            "artifact": self.stage.artifact,
            "files": self.stage.files,
            "bytes": self.stage.bytes,
            "link_bytes_per_s": self.job.link_bytes_per_s,
            "cold_client": usual.client_of(self.job.ref) if COLD in self.variants else None,
            "machine": self.machine.to_json(),
            "rounds": self.job.rounds,
            "seed": self.job.seed,
            "stage": {"seconds": self.stage.seconds, "bytes_by_source": dict(self.stage.bytes_by_source)},
            "formula": FORMULA,
            "same_answer": True,
            "variants": {name: self._variant_json(name) for name in self.variants},
            "speedups": speedups,
            "samples": [sample.to_json() for sample in self.samples],
        }

    def _variant_json(self, name: str) -> dict[str, object]:
        phases = {phase: self.phase(name, phase).to_json() for phase in PHASES}
        return {"what": self.what(name), "total_s": self.total(name).to_json(), "phases": phases}

    def _of(self, variant: str) -> list[StartSample]:
        return [sample for sample in self.samples if sample.variant == variant]


def measure(job: StartJob, told: Callable[[str], None]) -> StartResult:
    """Stage, then run every variant in every round. `told` hears one line per step.

    Raises:
        Corrupt: two runs gave different answers.
        Full: a cold download would not fit.
        PrestageError: staging failed, or a run did.
    """
    told(f"staging {job.ref}")
    done = staged.stage(job.ref, job.root, job.environment)
    folder = staged.path(done.artifact, job.root)
    _check_room(job, done.bytes)
    described = machine.describe(job.scratch)
    variants = [COLD] * job.with_cold_origin + [DISK, WARM]
    variants += [DISK + LOADER, WARM + LOADER] if _has_loader() else []
    bench = _Runs(job, folder)
    told("one start that does not count, to have the libraries in memory")
    bench.run(-1, WARM)
    samples = []
    for number, variant in schedule(variants, job.rounds, job.seed):
        sample = bench.run(number, variant)
        samples.append(sample)
        told(f"round {number + 1} of {job.rounds}: {variant} {sample.total_s:.2f} s")
    answers = {sample.answer for sample in samples}
    if len(answers) != 1:
        raise Corrupt(f"starts of {job.ref} gave {len(answers)} different answers", hint="run `prestage verify` on the store")
    return StartResult(job, done, described, datetime.now(UTC).isoformat(timespec="seconds"), tuple(samples))


def _has_loader() -> bool:
    try:
        return importlib.util.find_spec("prestage.loader.numpy") is not None
    except ModuleNotFoundError:
        return False


def _check_room(job: StartJob, size_bytes: int) -> None:
    if not job.with_cold_origin:
        return
    free = shutil.disk_usage(job.scratch).free
    if free < size_bytes + _MARGIN_BYTES:
        raise Full(
            f"a cold download of {size_bytes / 1e9:.1f} GB does not fit: {free / 1e9:.1f} GB are free under {str(job.scratch)!r}",
            hint="free room, or use --cold-client none",
        )


class _Runs:
    """Runs of one job against its staged folder."""

    def __init__(self, job: StartJob, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._files = [file for file in folder.rglob("*") if file.is_file()]
        self._servers = job.server_pids or _local_servers(job)

    def run(self, number: int, variant: str) -> StartSample:
        """Prepare the page cache, then one process."""
        if variant.startswith(DISK):
            cold.make_cold(self._files)
        elif variant.startswith(WARM):
            cold.make_warm(self._files)
        loader = "prestage" if variant.endswith(LOADER) else "safetensors"
        with scratch_folder(self._job.scratch, "cold-") as empty:
            source = {"ref": self._job.ref, "into": str(empty)} if variant == COLD else {"folder": str(self._folder)}
            return self._start(number, variant, {"loader": loader, **source})

    def _start(self, number: int, variant: str, settings: dict[str, object]) -> StartSample:
        settings["spawned_at"] = time.monotonic()
        ran = run_measured(
            [sys.executable, "-m", "prestage.bench.serving", json.dumps(settings)],
            cwd=self._job.scratch,
            environment=_environment(self._job),
            server_pids=self._servers,
            timeout_s=_RUN_TIMEOUT_S,
        )
        said = json.loads(ran.stdout.strip().splitlines()[-1])
        phases = {name: float(said[f"{name}_s"]) for name in PHASES}
        return StartSample(number, variant, phases, ran.cpu_s, ran.rss_bytes, ran.foreign_cores, str(said["answer"]))


def _environment(job: StartJob) -> dict[str, str]:
    """Quiet clients; one BLAS thread, so that equal weights give equal bits."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DISABLE_UPDATE_CHECK": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet, **job.environment}


def _local_servers(job: StartJob) -> tuple[int, ...]:
    """An origin on this very machine, found by the port it listens on."""
    named = {**os.environ, **job.environment}
    places = [job.ref, named.get("HF_ENDPOINT", ""), named.get("AWS_ENDPOINT_URL", ""), named.get("AWS_ENDPOINT_URL_S3", "")]
    found: set[int] = set()
    for place in places:
        parts = urlsplit(place)
        if parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port:
            found |= machine.listeners(parts.port)
    return tuple(sorted(found))
