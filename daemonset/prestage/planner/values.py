"""What a copy is worth to keep: the waiting that it will save, for each byte that it takes.

A model's starts are counted with a half-life (`Use`), cluster-wide, by whoever sees them, and handed in. What is said aloud for
the next hours counts as starts that will come. Each further copy is worth less: the pods are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prestage.planner.copies import Copies
from prestage.planner.demands import Trust
from prestage.planner.ledger import Book
from prestage.planner.timing import Timing

USES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Use:
    """How often an artifact was started, what is long ago counted less."""

    weight: float
    """Starts, as counted at `at`."""
    at: float
    size_bytes: int
    gpus: int = 1
    """That wait at a start without it."""

    def weight_at(self, now: float, half_life_s: float) -> float:
        """What is left of it."""
        return self.weight * math.exp2(-max(0.0, now - self.at) / half_life_s)


def used(before: Use | None, *, at: float, size_bytes: int, gpus: int, half_life_s: float) -> Use:
    """One more start."""
    left = 0.0 if before is None else before.weight_at(at, half_life_s)
    return Use(left + 1.0, at, size_bytes, gpus)


def bounded(uses: Mapping[str, Use], now: float, half_life_s: float, most: int = USES_MAX) -> dict[str, Use]:
    """The most of them that are worth remembering."""
    if len(uses) <= most:
        return dict(uses)
    ranked = sorted(uses.items(), key=lambda pair: (-pair[1].weight_at(now, half_life_s), pair[0]))
    return dict(ranked[:most])


class Values:
    """Of one plan."""

    def __init__(self, copies: Copies, uses: Mapping[str, Use], timing: Timing) -> None:
        self.uses = uses
        self._copies, self._timing, self._rules = copies, timing, timing.rules
        self._starts: dict[str, float] = {}

    def starts(self, artifact: str) -> float:
        """Expected until the horizon."""
        found = self._starts.get(artifact)
        if found is None:
            found = self._starts[artifact] = self._usual(artifact) + self._declared(artifact)
        return found

    def density(self, artifact: str, size_bytes: int, book: Book, *, number: int = 0) -> float:
        """Of the copy there, which is the `number`th that counts: worth per byte."""
        worth, use = self._rules.worth, self.uses.get(artifact)
        wanted = self._copies.wanted.get(artifact, ())
        gpus = 1 if use is None else max(1, use.gpus)
        for demand in wanted:
            gpus = max(gpus, demand.gpus)
        rate = self._timing.link(book).rate_at(self._timing.now) or self._rules.assumed_bytes_per_s
        saved = gpus * worth.wait_s * (size_bytes / rate) + worth.start_s
        return self.starts(artifact) / (number + 1) * saved / max(1, size_bytes)

    def _usual(self, artifact: str) -> float:
        """By what was: a start counted with a half-life is half-life / ln 2 of the rate."""
        use, half_life_s = self.uses.get(artifact), self._rules.worth.half_life_s
        if use is None:
            return 0.0
        return use.weight_at(self._timing.now, half_life_s) * math.log(2) / half_life_s * self._rules.horizon_s

    def _declared(self, artifact: str) -> float:
        until = self._timing.now + self._rules.horizon_s
        return sum(
            demand.chance * max(1, demand.count)
            for demand in self._copies.wanted.get(artifact, ())
            if demand.trust in (Trust.DECLARED, Trust.FOLLOW_ON) and (demand.ready_by or 0.0) <= until
        )
