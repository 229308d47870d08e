"""What samples of `bench load` come to: rows, ratios by round, goals. Pure.

A ratio is taken inside a round and only then summed up. `raw` is the best of our own O_DIRECT depths in the same round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prestage.bench.rounds import Summary, ratios, summarize

Samples = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]
"""By (variant, state), then by round: what a child measured."""
MMAP = "safetensors"
HASH = "xxh3"
PINNED = "pinned"
SCRIPT = "script"
"""A state of its own, whose variants load nothing twice and have no speed: `load_script.PARTS`."""
_MIB = 1 << 20
_Asked = tuple[str, float, Mapping[int, float], Mapping[int, float]]
"""What of, the least ratio, and by round the seconds of the limit and ours."""


@dataclass(frozen=True, slots=True)
class Row:
    """One loader in one state."""

    loader: str
    state: str
    verify: str
    """"on" or "off"."""
    gb_per_s: Summary
    cpu_s_per_gb: float
    peak_rss_mib: float
    """Beyond the tensors."""
    disk_share: float
    """Bytes that its process fetched from the disk, by the files' size."""
    ratio_to_raw: Summary | None
    ratio_to_mmap: Summary | None

    def to_json(self) -> dict[str, object]:
        """Medians; the whole summaries of speed and ratios below `summaries`."""
        return {
            "loader": self.loader,
            "state": self.state,
            "verify": self.verify,
            "gb_per_s": round(self.gb_per_s.median, 4),
            "cpu_s_per_gb": round(self.cpu_s_per_gb, 4),
            "peak_rss_mib": round(self.peak_rss_mib, 1),
            "disk_share": round(self.disk_share, 4),
            "ratio_to_raw": round(self.ratio_to_raw.median, 4) if self.ratio_to_raw else None,
            "ratio_to_mmap": round(self.ratio_to_mmap.median, 4) if self.ratio_to_mmap else None,
            "summaries": {
                "gb_per_s": self.gb_per_s.to_json(),
                "ratio_to_raw": self.ratio_to_raw.to_json() if self.ratio_to_raw else None,
                "ratio_to_mmap": self.ratio_to_mmap.to_json() if self.ratio_to_mmap else None,
            },
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """What was asked, and what came out."""

    name: str
    asked: float
    measured: Summary
    at_most: bool = False

    @property
    def met(self) -> bool:
        """By the median."""
        return self.measured.median <= self.asked if self.at_most else self.measured.median >= self.asked

    def to_json(self) -> dict[str, object]:
        """`{"name", "asked", "at_most", "measured": Summary, "met"}`."""
        return {
            "name": self.name,
            "asked": self.asked,
            "at_most": self.at_most,
            "measured": self.measured.to_json(),
            "met": self.met,
        }


def rows(samples: Samples, size_bytes: int) -> list[Row]:
    """One row for each variant and state, in their order."""
    found = []
    for (variant, state), by_round in samples.items():
        if state == SCRIPT:
            continue
        times = {number: sample["total_s"] for number, sample in by_round.items()}
        found.append(
            Row(
                loader=variant.removesuffix("-verified"),
                state=state,
                verify="on" if variant.endswith("-verified") else "off",
                gb_per_s=summarize([size_bytes / seconds / 1e9 for seconds in times.values()]),
                cpu_s_per_gb=_median(by_round, "cpu_s") / size_bytes * 1e9,
                peak_rss_mib=_median(by_round, "beyond_bytes") / _MIB,
                disk_share=_median(by_round, "disk_bytes") / size_bytes,
                ratio_to_raw=ratios(best_raw(samples), times),
                ratio_to_mmap=ratios(_times(samples, MMAP, state), times),
            )
        )
    return found


def best_raw(samples: Samples) -> dict[int, float]:
    """Seconds of the fastest depth, by round. Measured cold, and compared with every state."""
    best: dict[int, float] = {}
    for (variant, _), by_round in samples.items():
        if variant.startswith("raw-"):
            for number, sample in by_round.items():
                best[number] = min(best.get(number, sample["load_s"]), sample["load_s"])
    return best


def goals(samples: Samples, *, on_device: bool = False) -> list[Goal]:
    """Those whose variants were measured: of loads to memory, or of loads to a device."""
    asked = _asked_to_device(samples) if on_device else _asked(samples)
    found = [Goal(name, goal, ratio) for name, goal, over, under in asked if (ratio := ratios(over, under))]
    return found if on_device else found + _asked_of_memory(samples)


def _asked(samples: Samples) -> list[_Asked]:
    raw = best_raw(samples)
    return [
        ("hot, verify off / safetensors mmap", 1.0, _times(samples, MMAP, "hot"), _times(samples, "prestage", "hot")),
        (
            "hot, verified / a pure xxh3 pass (load)", 0.5,
            _times(samples, HASH, "hot", "load_s"), _times(samples, "prestage-verified", "hot", "load_s"),
        ),
        ("cold, verify off / raw (load)", 0.95, raw, _times(samples, "prestage", "cold", "load_s")),
        ("cold, verify off / runai", 1.0, _times(samples, "runai", "cold"), _times(samples, "prestage", "cold")),
        ("cold, verified / raw (load)", 0.88, raw, _times(samples, "prestage-verified", "cold", "load_s")),
        ("half / mapped only", 1.0, _times(samples, "prestage-mapped", "half"), _times(samples, "prestage", "half")),
        ("half / private only", 1.0, _times(samples, "prestage-private", "half"), _times(samples, "prestage", "half")),
    ]  # fmt: skip


def _asked_to_device(samples: Samples) -> list[_Asked]:
    ours = {state: _times(samples, "prestage", state, "load_s") for state in ("hot", "cold")}
    pinned = _times(samples, PINNED, "hot", "load_s")
    return [
        ("to the device, hot, verify off / pinned copies (load)", 0.9, pinned, ours["hot"]),
        ("to the device, cold, verify off / raw (load)", 0.95, best_raw(samples), ours["cold"]),
    ]


def _asked_of_memory(samples: Samples) -> list[Goal]:
    found = []
    if script := _script(samples):
        found.append(Goal("script start to all tensors, cold / max(import, read)", 1.15, script, at_most=True))
    beyond = [
        sample["beyond_bytes"] / _MIB
        for (variant, _), by_round in samples.items()
        if variant in ("prestage", "prestage-verified")
        for sample in by_round.values()
    ]
    if beyond:
        found.append(Goal("peak RSS beyond the tensors, MiB", 256, summarize([max(beyond)]), at_most=True))
    return found


def _script(samples: Samples) -> Summary | None:
    imports, reads = (_times(samples, part, SCRIPT) for part in ("script-import", "script-read"))
    slower = {number: max(imports[number], reads[number]) for number in imports.keys() & reads.keys()}
    return ratios(_times(samples, SCRIPT, SCRIPT), slower)


def _times(samples: Samples, variant: str, state: str, measure: str = "total_s") -> dict[int, float]:
    return {number: sample[measure] for number, sample in samples.get((variant, state), {}).items()}


def _median(by_round: Mapping[int, Mapping[str, float]], measure: str) -> float:
    values: Sequence[float] = [sample[measure] for sample in by_round.values()]
    return summarize(values).median
