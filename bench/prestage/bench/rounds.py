"""Rounds: in which order variants run, and what may be concluded from their samples. Pure.

Variants alternate: every round runs each of them once, in an order drawn from a seed, so that drift of the machine hits all
alike. Ratios are taken pair by pair inside a round and only then summed up. Invariant: nothing here hides a sample; a verdict
that says "noisy" always says why.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FOREIGN_CORES_MAX = 0.5
"""Cores that other processes may use during a run before it counts as disturbed (download-engines.md kept < 0.35)."""
SPREAD_MAX = 0.5
"""(highest - lowest) / median of the ratios above which their median is no figure to quote."""


CONFIDENCE = 0.95
"""Of the interval of a median, where there are rounds enough: six."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true median lies with `confidence`, if rounds are alike and independent. Nothing else is assumed of them."""

    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.low:.2f}-{self.high:.2f} at {self.confidence:.0%}"

    def to_json(self) -> dict[str, object]:
        """`{"low", "high", "confidence"}`."""
        return {"low": round(self.low, 6), "high": round(self.high, 6), "confidence": round(self.confidence, 4)}


@dataclass(frozen=True, slots=True)
class Summary:
    """Raw values in the order of their rounds, and what they come to."""

    values: tuple[float, ...]
    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """(high - low) / median; 0 for a single value."""
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def interval(self) -> Interval:
        """Of the median: the narrowest pair of order statistics that holds it with `CONFIDENCE`, else lowest and highest."""
        return median_interval(self.values)

    def to_json(self) -> dict[str, object]:
        """`{"median", "low", "high", "spread", "interval": Interval, "values"}`."""
        return {
            "median": round(self.median, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "spread": round(self.spread, 4),
            "interval": self.interval.to_json(),
            "values": [round(value, 6) for value in self.values],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the ratio of two variants may be quoted."""

    noisy: bool
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """`{"noisy", "reasons"}`."""
        return {"noisy": self.noisy, "reasons": list(self.reasons)}


def schedule(variants: Sequence[str], rounds: int, seed: int) -> list[tuple[int, str]]:
    """(round, variant) in the order to run them; each round holds every variant once."""
    shuffler = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = []
    for number in range(rounds):
        names = list(variants)
        shuffler.shuffle(names)
        order += [(number, name) for name in names]
    return order


def summarize(values: Sequence[float]) -> Summary:
    """Median and range of at least one value."""
    return Summary(tuple(values), statistics.median(values), min(values), max(values))


def median_interval(values: Sequence[float]) -> Interval:
    """By the binomial distribution of how many of the values lie below the true median (the interval of the sign test)."""
    ordered, count = sorted(values), len(values)
    outside, found = 2 * math.comb(count, 0) / 2**count, 0
    while found + 1 < count - found - 1:
        next_outside = outside + 2 * math.comb(count, found + 1) / 2**count
        if 1 - next_outside < CONFIDENCE:
            break
        outside, found = next_outside, found + 1
    return Interval(ordered[found], ordered[count - 1 - found], max(1 - outside, 0.0))


def ratios(over: Mapping[int, float], under: Mapping[int, float]) -> Summary | None:
    """`over / under`, by round, for the rounds that hold both; None when no round does."""
    pairs = [over[number] / under[number] for number in sorted(over.keys() & under.keys()) if under[number] > 0]
    return summarize(pairs) if pairs else None


def judge(ratio: Summary, foreign_cores: Sequence[float]) -> Verdict:
    """May `ratio` be quoted? `foreign_cores`: what other processes used during each run that went into it."""
    reasons = []
    if len(ratio.values) < 2:
        reasons.append("one round only: its spread is not known")
    elif ratio.low < 1 < ratio.high:
        reasons.append(f"the rounds disagree which is faster ({ratio.low:.2f}x to {ratio.high:.2f}x)")
    elif ratio.spread > SPREAD_MAX:
        reasons.append(f"the ratio spreads over {ratio.spread:.0%} of its median ({ratio.low:.2f}x to {ratio.high:.2f}x)")
    disturbed = sum(cores > FOREIGN_CORES_MAX for cores in foreign_cores)
    if disturbed * 3 > len(foreign_cores):
        runs = f"{disturbed} of {len(foreign_cores)} runs (up to {max(foreign_cores):.1f})"
        reasons.append(f"other processes used over {FOREIGN_CORES_MAX} cores in {runs}")
    return Verdict(bool(reasons), tuple(reasons))
