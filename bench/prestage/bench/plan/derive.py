"""Pod starts from rates of requests (ServeGen's form: model, client, t_s, rate_rps, cv), by a fixed seed.

Every client is one model of its own; its size is drawn from a fixed list, whatever its popularity. Two ways:

one node    requests come one by one at the client's rate, thinned so that `per_day` pods start on an average day; a pod
            starts with a request and ends 5 minutes after the last one
fleet       a client has ceil(rate / capacity) replicas; a pod starts when they become more and ends when they have been fewer
            for ten minutes
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from prestage.bench.plan.traces import Start
from prestage.cacher.errors import Misconfigured

GB = 10**9
SIZES_GB = (1, 3, 5, 7, 14, 16, 24, 28, 35, 47, 65, 70, 94, 141, 145, 220, 281, 405, 470, 689, 812)
"""Parameters times bytes per weight of common models."""
WINDOW_S = 600.0
_KEEP_ALIVE_S = 300.0
_DAY_S = 86_400.0
_RPS_OF_7_GB = 10.0

Rates = Mapping[str, Mapping[int, float]]
"""By client, by window."""


def read_rates(file: Path) -> dict[str, dict[int, float]]:
    """A file of rates."""
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
        made = defaultdict[str, dict[int, float]](dict)
        for row in csv.DictReader(io.StringIO(text)):
            made[row["client"]][int(float(row["t_s"]) // WINDOW_S)] = float(row["rate_rps"])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as exc:
        raise Misconfigured(f"cannot read the rates {file}: {exc}", hint="columns: model,client,t_s,rate_rps,cv") from exc
    return dict(made)


def gpus_of(size_bytes: int) -> int:
    """1, 2, 4 or 8: 80 GB each, with room for more than weights."""
    return next(count for count in (1, 2, 4, 8) if count == 8 or size_bytes <= count * 60 * GB)


def one_node(rates: Rates, seed: int, *, apps: int = 80, per_day: float = 240.0) -> list[Start]:
    """`apps` clients, drawn."""
    chance = random.Random(f"one node {seed}")  # noqa: S311  a seed, no secret
    drawn = chance.sample(sorted(rates), min(apps, len(rates)))
    sizes = {client: chance.choice(SIZES_GB) * GB for client in drawn}
    windows = 1 + max(max(rates[client]) for client in drawn)
    wanted = per_day * windows * WINDOW_S / _DAY_S
    thinned = _thinned([rates[client] for client in drawn], wanted)
    starts = list[Start]()
    for client in drawn:
        starts += _sessions(client, rates[client], thinned, sizes[client], chance)
    return sorted(starts, key=lambda one: (one.time_s, one.app))


def _thinned(rates: Sequence[Mapping[int, float]], wanted: float) -> float:
    """The share of requests that makes so many starts; more requests are more starts, until pods no longer end between them."""
    most = 1e-9
    while most < 10.0 and sum(_expected_starts(rate, most) for rate in rates) < wanted:
        most *= 2
    least = most / 2
    for _ in range(30):
        middle = math.sqrt(least * most)
        found = sum(_expected_starts(rate, middle) for rate in rates)
        least, most = (middle, most) if found < wanted else (least, middle)
    return most


def _expected_starts(rate: Mapping[int, float], thinned: float) -> float:
    return sum(WINDOW_S * one * thinned * math.exp(-min(700.0, one * thinned * _KEEP_ALIVE_S)) for one in rate.values())


def _sessions(client: str, rate: Mapping[int, float], thinned: float, size: int, chance: random.Random) -> list[Start]:
    made = list[Start]()
    began, last = None, 0.0
    for window in sorted(rate):
        at, rps = window * WINDOW_S, rate[window] * thinned
        while rps > 0:
            at += chance.expovariate(rps)
            if at >= (window + 1) * WINDOW_S:
                break
            if began is not None and at > last + _KEEP_ALIVE_S:
                made.append(Start(began, client, gpus_of(size), size, last + _KEEP_ALIVE_S - began))
                began = None
            began, last = at if began is None else began, at
    if began is not None:
        made.append(Start(began, client, gpus_of(size), size, last + _KEEP_ALIVE_S - began))
    return made


def fleet(rates: Rates, seed: int, *, days: Sequence[int] = (0, 1), copies: int = 1, scale: float = 1.0) -> list[Start]:
    """`copies`: of all clients under other names, each shifted by whole days. `scale`: of all rates."""
    chance = random.Random(f"fleet {seed}")  # noqa: S311  a seed, no secret
    starts = list[Start]()
    per_day = int(_DAY_S / WINDOW_S)
    whole = 1 + max(max(rate) for rate in rates.values() if rate)
    for copy in range(copies):
        for client in sorted(rates):
            size = chance.choice(SIZES_GB) * GB
            capacity = _RPS_OF_7_GB * math.sqrt(7 * GB / size) * gpus_of(size)
            counts = list[int]()
            for day in days:
                first = (day + copy) * per_day % max(per_day, whole - whole % per_day)
                counts += [math.ceil(rates[client].get(first + one, 0.0) * scale / capacity) for one in range(per_day)]
            starts += _replicas(f"{client}#{copy}", counts, size, chance)
    return sorted(starts, key=lambda one: (one.time_s, one.app))


def _replicas(app: str, counts: Sequence[int], size: int, chance: random.Random) -> list[Start]:
    made, running = list[Start](), list[float]()
    for window, count in enumerate(counts):
        before = max(count, counts[window - 1] if window else 0)
        while len(running) > before:
            began = running.pop()
            made.append(Start(began, app, gpus_of(size), size, max(60.0, window * WINDOW_S - began)))
        while len(running) < count:
            running.append((window + chance.random()) * WINDOW_S)
    ends = len(counts) * WINDOW_S
    made += [Start(began, app, gpus_of(size), size, max(60.0, ends - began)) for began in running]
    return made
