"""Where a load's time and bytes went, counted while it runs, and what to conclude from it."""

from __future__ import annotations

import threading
import time

from prestage.loader.ways import Way

_FROM_DISK = (Way.DIRECT, Way.POPULATED)


class Tally:
    """Thread-safe. Times are seconds of reading threads together, unless they say wall."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.perf_counter()
        self._ended: float | None = None
        self._disk_began: float | None = None
        self._disk_ended = 0.0
        self.by_way = dict.fromkeys(Way, 0)
        """Bytes."""
        self.verified_bytes = 0
        self.read_s = 0.0
        self.verify_s = 0.0
        self.slot_s = 0.0
        """Waiting for the device to finish with a slot of the ring."""
        self.consumer_s = 0.0
        """Wall time for which the caller waited for bytes."""

    def read(self, way: Way, size_bytes: int, began: float, took_s: float | None = None) -> float:
        """A block arrived this way, begun at `began` (perf_counter); `took_s`: of the time since then. Returns now."""
        now = time.perf_counter()
        with self._lock:
            self.by_way[way] += size_bytes
            self.read_s += now - began if took_s is None else took_s
            if way in _FROM_DISK:
                self._disk_began = min(began, self._disk_began or began)
                self._disk_ended = now
            self._ended = now
        return now

    def verified(self, size_bytes: int, began: float) -> None:
        """Chunks were checked, begun at `began`."""
        now = time.perf_counter()
        with self._lock:
            self.verified_bytes += size_bytes
            self.verify_s += now - began
            self._ended = now

    def waited_for_slot(self, began: float) -> None:
        """A reading thread had nowhere to read to."""
        with self._lock:
            self.slot_s += time.perf_counter() - began

    def waited(self, began: float) -> None:
        """The caller had to wait."""
        with self._lock:
            self.consumer_s += time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Wall time from the start to the last block."""
        return (self._ended or time.perf_counter()) - self._began

    @property
    def disk_s(self) -> float:
        """Wall time from the first request to the disk to its last answer."""
        return self._disk_ended - self._disk_began if self._disk_began is not None else 0.0

    @property
    def disk_bytes(self) -> int:
        """That were not in the page cache."""
        return sum(self.by_way[way] for way in _FROM_DISK)

    @property
    def limit(self) -> str:
        """What reading threads spent most time on: "disk", "memory" (copying what is cached), "verify" or "device"."""
        steps = {"verify": self.verify_s, "device": self.slot_s}
        steps["disk" if self.disk_bytes * 2 >= sum(self.by_way.values()) else "memory"] = self.read_s
        return max(steps, key=lambda step: steps[step])
