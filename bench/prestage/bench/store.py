"""`prestage bench store`: what the store's operations cost, in a store that holds many blobs.

One process, the store's own calls, on the disk named by --dir; each operation in every round, rounds in turns. Everything that
publishes or lets go is durable when it returns, so the disk's fsync is in it. JSON (`to_json`, `schema` 1):

    {"bench": "store", "schema": 1, "date", "blobs", "artifacts", "machine": {...}, "rounds",
     "operations": {NAME: {"unit": "ms" | "s" | "GB/s", "what", "goal", SUMMARY}}, "foreign_cores": SUMMARY}
    SUMMARY as in `fetch.py`: over the rounds; one round's value is the median of its calls
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.bench import machine
from prestage.bench.rounds import FOREIGN_CORES_MAX, Summary, summarize
from prestage.bench.stocked import Stocked, ref_of, scatter, stock
from prestage.cacher.store.store import Store

_FILES = {"config.json": 600, "model.bin": 100_000}
_CALLS = 50
"""Of an operation in a round, where one call is short."""
_DURABLE_CALLS = 15
"""Of one that waits for the disk dozens of times."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a store does."""

    what: str
    unit: str
    goal: str = ""


OPERATIONS: Mapping[str, Operation] = {
    "open": Operation("become the owner: recover, read the tree, the index is there", "s", "< 1 s with 10^5 blobs"),
    "open, index lost": Operation("the same, every meta read again", "s"),
    "open to read": Operation("as `prestage path` does", "ms"),
    "resolve": Operation("a warm ref to its path: lookup, checks of the view, use recorded", "ms", "<= 2 ms"),
    "resolve, opened": Operation("the same with opening the store to read", "ms"),
    "hold and drop": Operation("a durable hold, made and let go", "ms"),
    "list": Operation("every artifact with its state", "ms"),
    "stage": Operation("2 small files: ingest, publish, bind, view, ref; each step durable", "ms"),
    "evict": Operation("one of those", "ms"),
    "verify": Operation("read a blob past the page cache, hash and compare", "GB/s"),
}


@dataclass(frozen=True, slots=True)
class StoreJob:
    """What to measure."""

    scratch: Path
    blobs: int = 100_000
    artifacts: int = 100
    large_bytes: int = 512 << 20
    """Of the blob that is verified."""
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class StoreResult:
    """Values by operation, in the order of the rounds."""

    job: StoreJob
    machine: machine.Machine
    date: str
    values: Mapping[str, list[float]]
    foreign_cores: list[float]

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        return {
            "bench": "store",
            "schema": 1,
            "date": self.date,
            "blobs": self.job.blobs,
            "artifacts": self.job.artifacts,
            "machine": self.machine.to_json(),
            "rounds": self.job.rounds,
            "operations": {
                name: {"unit": about.unit, "what": about.what, "goal": about.goal, **self.summary(name).to_json()}
                for name, about in OPERATIONS.items()
            },
            "foreign_cores": summarize(self.foreign_cores).to_json(),
        }

    def summary(self, name: str) -> Summary:
        """Over the rounds."""
        return summarize(self.values[name])


def measure(job: StoreJob, told: Callable[[str], None]) -> StoreResult:
    """Make a store, then run every operation in every round. `told` hears one line a step."""
    root = job.scratch / "store"
    Store.open(root, own=True, margin_bytes=0).close()
    told(f"making {job.blobs} blobs and {job.artifacts} artifacts ...")
    scatter(root, job.blobs)
    with Store.open(root, own=True, margin_bytes=0) as store:
        known = [stock(store, f"known-{number}", _FILES) for number in range(job.artifacts)]
        large = stock(store, "large", {"large.bin": job.large_bytes})
    values: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    foreign = []
    for number in range(job.rounds):
        watch, cpu = machine.LoadWatch(), time.process_time()
        _Round(root, number, known, large, values).run()
        foreign.append(watch.foreign_cores(time.process_time() - cpu))
        told(f"round {number + 1} of {job.rounds}: " + ", ".join(f"{name} {found[-1]:.3g}" for name, found in values.items()))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return StoreResult(job, machine.describe(job.scratch), date, values, foreign)


@dataclass(frozen=True, slots=True)
class _Round:
    """Every operation once, or so often that one call can be told from another."""

    root: Path
    number: int
    known: list[Stocked]
    large: Stocked
    values: dict[str, list[float]]

    def run(self) -> None:
        self._put("open", _seconds(self._open))
        index = self.root / "index.db"
        index.unlink()
        self._put("open, index lost", _seconds(self._open))
        self._each("open to read", lambda _: Store.open(self.root, own=False).close())
        self._each("resolve, opened", self._resolve_opened)
        with Store.open(self.root, own=True, margin_bytes=0) as store:
            self._operate(store)

    def _operate(self, store: Store) -> None:
        self._each("resolve", lambda call: self._resolve(store, call))
        self._each("hold and drop", lambda call: self._hold(store, call))
        self._put("list", 1000 * _seconds(store.list))
        made: list[Stocked] = []
        self._each("stage", lambda call: made.append(stock(store, f"made-{self.number}-{call}", _FILES)), _DURABLE_CALLS)
        self._each("evict", lambda call: store.evict(made[call].artifact), _DURABLE_CALLS)
        seconds = _seconds(lambda: store.verify(self.large.artifact))
        size_bytes = store.manifest(self.large.artifact).size_bytes
        self._put("verify", size_bytes / 1e9 / seconds)

    def _open(self) -> None:
        Store.open(self.root, own=True, margin_bytes=0).close()

    def _resolve(self, store: Store, call: int) -> None:
        store.path(store.lookup(ref_of(f"known-{call % len(self.known)}")))

    def _resolve_opened(self, call: int) -> None:
        with Store.open(self.root, own=False) as store:
            self._resolve(store, call)

    def _hold(self, store: Store, call: int) -> None:
        artifact = self.known[call % len(self.known)].artifact
        store.drop_hold(artifact, store.hold(artifact, kind="pin"))

    def _each(self, name: str, call: Callable[[int], object], calls: int = _CALLS) -> None:
        self._put(name, 1000 * statistics.median(_seconds(partial(call, number)) for number in range(calls)))

    def _put(self, name: str, value: float) -> None:
        self.values[name].append(value)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def store_table(result: StoreResult) -> RenderableType:
    """One row an operation."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("OPERATION")
    for name in ("MEDIAN", "RANGE"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("GOAL", "WHAT"):
        table.add_column(name)
    for name, about in OPERATIONS.items():
        found = result.summary(name)
        table.add_row(
            Text(name, style="bold"),
            f"{found.median:.2f} {about.unit}",
            f"{found.low:.2f} - {found.high:.2f}",
            about.goal,
            Text(about.what, style="dim"),
        )
    job = result.job
    notes = [Text(f"medians of {job.rounds} rounds; {result.machine.line()}", style="dim")]
    if (most := max(result.foreign_cores)) > FOREIGN_CORES_MAX:
        notes.append(Text(f"noisy: other processes used up to {most:.1f} cores meanwhile", style="yellow"))
    title = f"a store of {job.blobs} blobs and {job.artifacts} artifacts"
    return Group(Text(title, style="bold"), Text(), table, Text(), *notes)
