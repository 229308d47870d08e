"""What the agent costs a node while it has nothing to do, and how soon it answers: a real one, on a store of its own.

at rest   CPU of a core and resident memory, nobody asking, one model in the store
resolve   of a warm ref: connect, ask, answer, close, as a pod's start does it
progress  the longest time between two progress events of a stage whose rate is capped: how old a shown value can be
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from prestage.bench.machine import Machine, cpu_seconds, describe
from prestage.cacher.agent.client import AgentClient
from prestage.cacher.errors import Unavailable

_READY_S = 60.0
_SETTLE_S = 5.0
"""After the last request, before the rest is measured."""
_SMALL_BYTES = 1 << 20
_RATE_BYTES_PER_S = 16_000_000
_STAGED_BYTES = 5 * _RATE_BYTES_PER_S
"""Five seconds at that rate."""


@dataclass(frozen=True, slots=True)
class AgentResult:
    """Times in seconds, sizes in bytes."""

    date: str
    machine: Machine
    idle_s: float
    idle_cores: float
    """CPU time over wall time while nobody asked."""
    rest_rss_bytes: int
    resolves: int
    resolve_p50_s: float
    resolve_p99_s: float
    progress_gap_s: float
    peak_rss_bytes: int

    def to_json(self) -> dict[str, object]:
        """All fields by name."""
        return {**asdict(self), "machine": self.machine.to_json()}

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"at rest    {self.idle_cores:.2%} of a core over {self.idle_s:.0f} s, {self.rest_rss_bytes / 1e6:.0f} MB resident",
            f"resolve    p50 {self.resolve_p50_s * 1e3:.2f} ms, p99 {self.resolve_p99_s * 1e3:.2f} ms of {self.resolves}",
            f"progress   at most {self.progress_gap_s:.2f} s apart",
            f"peak       {self.peak_rss_bytes / 1e6:.0f} MB resident",
            self.machine.line(),
        ]


def measure(scratch: Path, *, idle_s: float, resolves: int, tell: Callable[[str], None]) -> AgentResult:
    """All of it, in `scratch`, which is on the disk to be measured."""
    small, large = _folder(scratch / "small", _SMALL_BYTES), _folder(scratch / "large", _STAGED_BYTES)
    with _agent(scratch / "store") as (process, client):
        for _ in client.stream("POST", "/v1/stage", {"ref": small.as_uri()}):
            continue
        tell(f"at rest for {idle_s:.0f} s")
        time.sleep(_SETTLE_S)
        began, cpu_s = time.monotonic(), cpu_seconds(process.pid)
        time.sleep(idle_s)
        idle_cores = (cpu_seconds(process.pid) - cpu_s) / (time.monotonic() - began)
        rest_rss_bytes = _status_bytes(process.pid, "VmRSS")
        tell(f"{resolves} resolves")
        times = [_resolve_s(client, small.as_uri()) for _ in range(resolves)]
        tell(f"a stage at {_RATE_BYTES_PER_S / 1e6:.0f} MB/s")
        gap_s = _progress_gap_s(client, large.as_uri())
        peak_rss_bytes = _status_bytes(process.pid, "VmHWM")
    return AgentResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe(scratch),
        idle_s=idle_s,
        idle_cores=idle_cores,
        rest_rss_bytes=rest_rss_bytes,
        resolves=resolves,
        resolve_p50_s=statistics.median(times),
        resolve_p99_s=sorted(times)[min(len(times) - 1, int(len(times) * 0.99))],
        progress_gap_s=gap_s,
        peak_rss_bytes=peak_rss_bytes,
    )


@contextmanager
def _agent(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], AgentClient]]:
    """A fresh agent at `root`, ended by SIGTERM. Its socket is elsewhere: a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="prestage-") as folder:
        command = [sys.executable, "-m", "prestage.cacher.cli", "agent", "--root", str(root), "--socket", f"{folder}/agent.sock"]
        command += ["--listen", "none", "--rate", str(_RATE_BYTES_PER_S)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield process, _answering(root, process)
        finally:
            process.terminate()
            process.wait()


def _answering(root: Path, process: subprocess.Popen[bytes]) -> AgentClient:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        if (client := AgentClient.awaited(root, 0.2)) is not None:
            return client
    raise Unavailable("the agent did not come up", hint="start `prestage agent` by hand and look at its log")


def _folder(path: Path, size_bytes: int) -> Path:
    path.mkdir()
    (path / "weights.bin").write_bytes(os.urandom(size_bytes))
    return path


def _resolve_s(client: AgentClient, ref: str) -> float:
    began = time.perf_counter()
    client.call("GET", "/v1/resolve", query={"ref": ref})
    return time.perf_counter() - began


def _progress_gap_s(client: AgentClient, ref: str) -> float:
    at: list[float] = [
        time.monotonic() for event in client.stream("POST", "/v1/stage", {"ref": ref}) if event["event"] == "progress"
    ]
    return max(after - before for before, after in itertools.pairwise(at))


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
