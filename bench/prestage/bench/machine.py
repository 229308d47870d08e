"""The machine a figure was taken on, and what else ran on it meanwhile.

Read from /proc and /sys; nothing is started and nothing is written. A figure without this description is no figure.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to judge a figure."""

    cpu: str
    cores: float
    """Cores this process may use: affinity and cgroup quota."""
    memory_bytes: int
    kernel: str
    system: str
    python: str
    filesystem: str
    """Of the directory that was measured, e.g. `ext4 on /dev/vda`."""
    read_ahead_bytes: int | None
    free_bytes: int
    load_1min: float

    def to_json(self) -> dict[str, object]:
        """All fields by name."""
        return asdict(self)

    def line(self) -> str:
        """One line for a caption."""
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.cpu}, {self.cores:g} cores, {memory}, Linux {self.kernel}, {self.filesystem}, Python {self.python}"


def describe(directory: Path) -> Machine:
    """This machine, with the file system that holds `directory`."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = os.statvfs(directory)
    return Machine(
        cpu=_cpu_name(),
        cores=_cores(),
        memory_bytes=pages,
        kernel=platform.release(),
        system=_system_name(),
        python=platform.python_version(),
        filesystem=_filesystem(directory),
        read_ahead_bytes=_read_ahead(directory),
        free_bytes=room.f_bavail * room.f_frsize,
        load_1min=round(os.getloadavg()[0], 2),
    )


class LoadWatch:
    """Cores that processes other than the measured ones use. Start it before a run, ask after it."""

    def __init__(self, server_pids: Iterable[int] = ()) -> None:
        self._servers = tuple(server_pids)
        self._began = time.monotonic()
        self._busy, self._served = busy_seconds(), self._server_seconds()

    def server_cpu_s(self) -> float:
        """CPU seconds of the servers since the start."""
        return self._server_seconds() - self._served

    def foreign_cores(self, own_cpu_s: float) -> float:
        """Mean cores used by others since the start, given what the measured processes used. Never below 0."""
        elapsed = max(time.monotonic() - self._began, 1e-3)
        foreign = busy_seconds() - self._busy - self.server_cpu_s() - own_cpu_s
        return max(0.0, foreign / elapsed)

    def _server_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._servers)


def busy_seconds() -> float:
    """CPU seconds that all cores together spent on anything since boot (steal included, idle and I/O wait not)."""
    user, nice, system, _idle, _wait, irq, softirq, steal = _stat_line()
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of a process, all its threads, to the nanosecond; 0 when it has gone.

    Source: clock_getcpuclockid(3). /proc/PID/stat counts ticks of 10 ms, in which a server may send 20 MB and seem idle.
    """
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of processes together, what they share counted once between them (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def listeners(port: int) -> frozenset[int]:
    """Processes of this machine that listen on TCP `port`, as far as their descriptors may be read."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    found = set()
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                found.add(int(process.name))
    return frozenset(found)


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            # local address is HEX:PORT, state 0A is LISTEN
            inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port}
    return inodes


def _stat_line() -> list[int]:
    with open("/proc/stat") as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "CPU part")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _cores() -> float:
    usable = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, int(quota) / int(period))
    return usable


def _system_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"


def _filesystem(directory: Path) -> str:
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            kind, source = fields[fields.index("-") + 1 :][:2]
            return f"{kind} on {source}"
    return "unknown"


def _read_ahead(directory: Path) -> int | None:
    device = directory.stat().st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (link / "queue", link / ".." / "queue"):
        with contextlib.suppress(OSError, ValueError):
            return int((queue / "read_ahead_kb").read_text()) * 1024
    return None
