"""Traces of pod starts: CSV with the columns time_s, app, gpus, size_bytes, duration_s and, if it was told ahead, announced_s."""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.errors import Misconfigured

COLUMNS = ("time_s", "app", "gpus", "size_bytes", "duration_s")
_JITTER_S = 15 * 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """One pod. Seconds from the beginning of the trace. `announced_s`: when somebody said that it will start then."""

    time_s: float
    app: str
    gpus: int
    size_bytes: int
    duration_s: float
    announced_s: float | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """What was said: an app is to be ready at `ready_s`. `start`: the place in the trace of the pod that it was about; None: it
    never comes."""

    said_s: float
    ready_s: float
    app: str
    gpus: int
    size_bytes: int
    start: int | None


def read_trace(file: Path) -> list[Start]:
    """In the order of time. `.gz` too."""
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"cannot read the trace {file}: {exc}", hint="name a CSV file, plain or .gz") from exc
    return parse_trace(io.StringIO(text), str(file))


def parse_trace(lines: Iterable[str], name: str) -> list[Start]:
    """`name`: for what is wrong with it."""
    reader = csv.DictReader(lines)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise Misconfigured(f"{name} has no column {missing[0]}", hint=f"columns: {','.join(COLUMNS)}[,announced_s]")
        starts = [_start(row, f"{name}, line {reader.line_num}") for row in reader]
    except csv.Error as exc:
        raise Misconfigured(f"{name} is no CSV: {exc}", hint="write one start a line") from exc
    sizes: dict[str, int] = {}
    for one in starts:
        if sizes.setdefault(one.app, one.size_bytes) != one.size_bytes:
            raise Misconfigured(f"{name}: app {one.app} has two sizes", hint="name a new release as an app of its own")
    return sorted(starts, key=lambda one: (one.time_s, one.app))


def _start(row: dict[str, str], where: str) -> Start:
    try:
        said = row.get("announced_s") or ""
        start = Start(
            float(row["time_s"]),
            row["app"],
            int(row["gpus"]),
            int(float(row["size_bytes"])),
            float(row["duration_s"]),
            float(said) if said else None,
        )
    except (TypeError, ValueError, OverflowError) as exc:
        raise Misconfigured(f"{where}: {exc}", hint="numbers in all columns but app") from exc
    numbers = (start.time_s, start.duration_s, start.announced_s or 0.0)
    if not start.app or start.gpus < 0 or start.size_bytes < 0 or start.duration_s < 0 or not all(map(math.isfinite, numbers)):
        raise Misconfigured(f"{where}: a start needs an app and numbers that are not negative", hint="correct or drop the line")
    return start


def write_trace(starts: Sequence[Start]) -> str:
    """As it is read."""
    rows = [",".join((*COLUMNS, "announced_s"))]
    for one in starts:
        said = "" if one.announced_s is None else f"{one.announced_s:g}"
        rows.append(f"{one.time_s:.3f},{one.app},{one.gpus},{one.size_bytes},{one.duration_s:.3f},{said}")
    return "\n".join(rows) + "\n"


def told_ahead(starts: Sequence[Start]) -> list[Announcement]:
    """What the trace itself has."""
    return [
        Announcement(min(one.announced_s, one.time_s), one.time_s, one.app, one.gpus, one.size_bytes, number)
        for number, one in enumerate(starts)
        if one.announced_s is not None
    ]


def announced(starts: Sequence[Start], share: float, seed: int) -> list[Announcement]:
    """A share of the starts is told 1 to 120 minutes ahead; of those 10 % come up to 15 minutes sooner or later than was said,
    and 5 % as many again are said of apps that never start then."""
    chance = random.Random(f"announced {seed}")  # noqa: S311  a seed, no secret
    made = list[Announcement]()
    for number, one in enumerate(starts):
        notice_s = chance.uniform(60.0, 7200.0)
        shift_s = chance.uniform(-_JITTER_S, _JITTER_S) if chance.random() < 0.1 else 0.0
        if chance.random() >= share:
            continue
        ready_s = one.time_s + shift_s
        said_s = max(0.0, min(one.time_s, ready_s) - notice_s)
        made.append(Announcement(said_s, ready_s, one.app, one.gpus, one.size_bytes, number))
    made += _false_ones(starts, int(len(made) * 0.05), chance)
    return sorted(made, key=lambda one: (one.said_s, one.ready_s, one.app))


def _false_ones(starts: Sequence[Start], count: int, chance: random.Random) -> Iterator[Announcement]:
    for _ in range(count):
        one = chance.choice(starts)
        ready_s = chance.uniform(0.0, starts[-1].time_s)
        said_s = max(0.0, ready_s - chance.uniform(60.0, 7200.0))
        yield Announcement(said_s, ready_s, one.app, one.gpus, one.size_bytes, None)
