"""How much memory a load may take, and how much it has taken."""

from __future__ import annotations

import os
import threading

_MARGIN = 10
"""One part in ten of what is available is left alone."""
_UNLIMITED = 1 << 62


class Budget:
    """Bytes against a limit. Thread-safe, also against a finalizer that runs inside one of its own calls."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._lock = threading.RLock()

    def take(self, size_bytes: int) -> bool:
        """True: taken. False: it does not fit, nothing was taken."""
        with self._lock:
            if self.used_bytes + size_bytes > self.limit_bytes:
                return False
            self.used_bytes += size_bytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            return True

    def give(self, size_bytes: int) -> None:
        """Back what was taken."""
        with self._lock:
            self.used_bytes -= size_bytes


def default_host_bytes() -> int:
    """Nine tenths of what this process may still fill: by the system's MemAvailable and every memory.max above its cgroup."""
    available = min(_system_bytes(), _cgroup_bytes())
    return available - available // _MARGIN


def _system_bytes() -> int:
    try:
        with open("/proc/meminfo", "rb") as source:
            for line in source:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _UNLIMITED


def _cgroup_bytes(mount: str = "/sys/fs/cgroup") -> int:
    """In a container the own cgroup is usually the mount itself; page cache counts as free, it is dropped before anybody dies."""
    try:
        with open("/proc/self/cgroup") as source:
            own = next((line.rstrip("\n").split(":", 2)[2] for line in source if line.startswith("0::")), "/")
    except OSError:
        own = "/"
    room = _UNLIMITED
    folder = mount + own.rstrip("/")
    while len(folder) >= len(mount):
        room = min(room, _room(folder))
        folder = os.path.split(folder)[0]
    return room


def _room(folder: str) -> int:
    try:
        with open(f"{folder}/memory.max") as source:
            limit = source.read().strip()
        if limit == "max":
            return _UNLIMITED
        with open(f"{folder}/memory.current") as source:
            used = int(source.read())
        with open(f"{folder}/memory.stat") as source:
            stat = dict(line.split() for line in source)
    except (OSError, ValueError):
        return _UNLIMITED
    cache = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
    return max(int(limit) - used + cache, 0)
