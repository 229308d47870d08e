"""What must not grow: an agent and its store, looked at again and again."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from agents import Agent


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the agent and its store."""

    at_s: float
    cycles: int
    rss_mb: float
    descriptors: int
    threads: int
    inodes: int
    wishes: int
    stages: int


@dataclass(slots=True)
class Growth:
    """Looks at one agent in the course of a run."""

    agent: Agent
    samples: list[Sample] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def look(self, cycles: int) -> None:
        """Once more."""
        agent, root = self.agent, self.agent.root
        self.samples.append(
            Sample(
                at_s=round(time.monotonic() - self._began, 1),
                cycles=cycles,
                rss_mb=agent.rss_bytes() / 1e6,
                descriptors=agent.descriptors(),
                threads=agent.threads(),
                inodes=sum(len(names) + len(folders) for _, folders, names in os.walk(root)),
                wishes=len(list((root / "wishes").iterdir())),
                stages=len(agent.ask("GET", "/v1/stages").good),
            )
        )

    def check(self, spares: Mapping[str, float]) -> None:
        """The last quarter is no larger than the second one, within a spare for what a look happens to catch in work. The first
        is left out: in it the history and the ended stages fill."""
        quarter = len(self.samples) // 4
        warm, late = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        for name, spare in spares.items():
            before = statistics.median(getattr(sample, name) for sample in warm)
            after = statistics.median(getattr(sample, name) for sample in late)
            assert after <= before + spare, f"{name} grew from {before} to {after}\n{self.table()}"

    def table(self) -> str:
        """Samples as text, some twenty of them."""
        names = [field.name for field in fields(Sample)]
        rows = [[f"{getattr(sample, name):.1f}".removesuffix(".0") for name in names] for sample in self.samples]
        every = max(1, len(rows) // 20)
        lines = ["  ".join(f"{name:>11}" for name in names)]
        return "\n".join([*lines, *("  ".join(f"{cell:>11}" for cell in row) for row in [*rows[:-1:every], rows[-1]])])
