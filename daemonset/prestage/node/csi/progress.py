"""What a pod's people read while its models are on their way. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Of one model, as the agent's events tell it."""

    step: str = "Waiting"
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0.0
    source: str = ""
    trouble: str = ""
    trouble_kind: str = ""
    """Of PrestageError, where it is known."""

    def take(self, event: dict[str, object]) -> None:
        """One event of a stage."""
        kind = event.get("event")
        if kind == "progress":
            self.step, self.trouble, self.trouble_kind = "Staging", "", ""
            self.bytes_done, self.bytes_total = _number(event, "bytes"), _number(event, "total")
            self.bytes_per_s, self.source = _number(event, "bytes_per_s"), str(event.get("source") or "")
        elif kind == "resolved":
            self.step = "Staging"
        elif kind == "verifying":
            self.step = "Verifying"
        elif kind == "paused":
            self.step = "Paused"
        elif kind in ("trouble", "error"):
            self.trouble, self.trouble_kind = str(event.get("message")), str(event.get("kind") or "")

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.step}: {self.trouble}"
        if self.step != "Staging" or not self.bytes_total:
            return self.step
        words = [f"Staging {100 * self.bytes_done // self.bytes_total} %"]
        if self.bytes_per_s > 0:
            words.append(f"{_span((self.bytes_total - self.bytes_done) / self.bytes_per_s)} left")
        if self.source:
            words.append(f"from {self.source}")
        return ", ".join(words)


def _number(event: dict[str, object], name: str) -> int:
    value = event.get(name)
    return int(value) if isinstance(value, (int, float)) else 0


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
