"""Where a model's load spent its time: a dict for programs, a line for people. Pure.

prestage: llama 141.1 GB in 9.4 s: disk 9.1 s at 15.5 GB/s, 12 % cached, verify 0.4 s, limit=disk
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prestage.loader.report import Outcome


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model's load from its start to its last byte. Seconds of the reading threads add up over the threads."""

    path: str
    name: str
    artifact: str | None
    size_bytes: int
    outcome: Outcome
    verified_bytes: int
    device: str
    seconds: float
    ways: Mapping[str, int]
    """Bytes by the way they took."""
    disk_bytes: int
    disk_s: float
    verify_s: float
    read_s: float
    slot_s: float
    waited_s: float
    threads: int
    limit: str
    host_peak_bytes: int

    def to_dict(self) -> dict[str, object]:
        """For `last_report`."""
        return {
            "path": self.path,
            "name": self.name,
            "bytes": self.size_bytes,
            "verify": self.outcome.value,
            "verified_bytes": self.verified_bytes,
            "artifact": self.artifact,
            "device": self.device,
            "seconds": self.seconds,
            "ways": {way: size for way, size in self.ways.items() if size},
            "disk_bytes": self.disk_bytes,
            "disk_s": self.disk_s,
            "cached_share": self._cached_share,
            "read_thread_s": self.read_s,
            "verify_thread_s": self.verify_s,
            "device_wait_thread_s": self.slot_s,
            "caller_waited_s": self.waited_s,
            "threads": self.threads,
            "limit": self.limit,
            "host_peak_bytes": self.host_peak_bytes,
        }

    def line(self) -> str:
        """For a person. Times of steps that threads share are divided by the threads, so that they compare with the seconds."""
        said = []
        if self.disk_bytes:
            said.append(f"disk {self.disk_s:.1f} s at {self.disk_bytes / max(self.disk_s, 1e-9) / 1e9:.1f} GB/s")
        said.append(f"{self._cached_share * 100:.0f} % cached")
        if self.device != "cpu":
            waited = self.slot_s / self.threads
            said.append("H2D hidden" if waited < 0.05 * self.seconds else f"H2D {waited:.1f} s")
        said.append(
            f"verify {self.verify_s / self.threads:.1f} s"
            if self.outcome is Outcome.VERIFIED
            else self.outcome.value
            if self.outcome is Outcome.UNVERIFIED
            else "verify off"
        )
        return (
            f"prestage: {self.name} {self.size_bytes / 1e9:.1f} GB in {self.seconds:.1f} s: {', '.join(said)}, limit={self.limit}"
        )

    @property
    def _cached_share(self) -> float:
        total = sum(self.ways.values())
        return 1 - self.disk_bytes / total if total else 1.0
