"""What the broker counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector


class Counts:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._answers = Counter(
            "prestage_broker_answers",
            "Questions answered, by path and class of the answer.",
            ["path", "outcome"],
            registry=self.registry,
        )
        self._rechecks = Counter(
            "prestage_broker_rechecks",
            "Looks at whether a namespace may still read what it had resolved, by outcome.",
            ["outcome"],
            registry=self.registry,
        )

    def rechecked(self, outcome: str) -> None:
        """proved, refused or unknown."""
        self._rechecks.labels(outcome).inc()

    def answered(self, path: str, outcome: str) -> None:
        """`outcome`: ok, or the class of the refusal."""
        self._answers.labels(path, outcome).inc()
