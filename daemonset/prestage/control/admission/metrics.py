"""Admission's metrics: names in one place, labels bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from prestage.control.gates.decision import Verdict


class AdmissionMetrics:
    """With a registry of its own: two may live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._answers = Counter(
            "prestage_admission_answers",
            "Reviews by how they were answered: patched, passed, refused, failed (let through), unreadable.",
            ["path", "answer"],
            registry=registry,
        )
        self._seconds = Histogram(
            "prestage_admission_seconds",
            "Own time of a review.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
            registry=registry,
        )
        self._gates = Counter(
            "prestage_gate_decisions", "Pods by decision and reason.", ["decision", "reason"], registry=registry
        )
        self.whole = Gauge("prestage_admission_whole", "1 once every mirror was filled.", registry=registry)
        self.released = Counter("prestage_gates_released_unwell", "Gates taken off because nobody leads.", registry=registry)

    def answered(self, path: str, answer: str, seconds: float, verdict: Verdict | None = None) -> None:
        """One review."""
        self._answers.labels(path, answer).inc()
        self._seconds.observe(seconds)
        if verdict is not None:
            self._gates.labels(str(verdict.decision), str(verdict.reason)).inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
