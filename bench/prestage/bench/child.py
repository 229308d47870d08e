"""One measured child process: wall time, CPU of the whole tree, peak memory, what others did meanwhile.

CPU is rusage of the child and all descendants it waited for. Peak memory is sampled from /proc over the tree, because
`ru_maxrss` of a child starts at the memory of the parent that forked it. Bounded: a child that outlives its time is
killed with its group, and no child outlives the call.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prestage.bench.machine import LoadWatch
from prestage.cacher.errors import Unavailable

_SAMPLE_S = 0.02
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Ran:
    """What one child process cost."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    """Peak of the tree's memory: the largest sum seen, or a single process's own high-water mark where that is more."""
    foreign_cores: float
    server_cpu_s: float
    stdout: str


class ChildFailed(Unavailable):
    """The child ended with an error or had to be killed; its last words are in the message."""


def run_measured(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], server_pids: Sequence[int] = (), timeout_s: float = 600
) -> Ran:
    """Run `command` to its end and measure it.

    Raises:
        ChildFailed: exit code other than 0, or not done after `timeout_s`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        watch, began = LoadWatch(server_pids), time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        memory = _MemoryWatch(process.pid)
        timer = threading.Timer(timeout_s, _kill_group, (process.pid,))
        timer.start()
        try:
            status, usage = _wait(process)
        finally:
            timer.cancel()
            timer.join()
            _kill_group(process.pid)
            rss_bytes = memory.stop()
            # reaped also when we were interrupted while we waited for it
            process.wait()
        wall_s, cpu_s = time.monotonic() - began, usage.ru_utime + usage.ru_stime
        if status:
            raise _failure(command, status, wall_s >= timeout_s, _tail(err) or _tail(out))
        out.seek(0)
        return Ran(
            wall_s, cpu_s, rss_bytes, watch.foreign_cores(cpu_s), watch.server_cpu_s(), out.read().decode(errors="replace")
        )


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, os.struct_rusage]:  # type: ignore[name-defined] # missing in typeshed
    """wait4, so that the usage is this tree's and not that of every child we ever had."""
    _, raw, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(raw)
    return process.returncode, usage


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _failure(command: Sequence[str], status: int, timed_out: bool, words: str) -> ChildFailed:
    what = Path(command[0]).name if "-m" not in command else " ".join(command[1:4])
    why = "took too long and was killed" if timed_out else f"ended with exit code {status}"
    return ChildFailed(f"{what} {why}: {words or 'it said nothing'}", hint="run it by hand to see more")


def _tail(stream: IO[bytes]) -> str:
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - _TAIL_BYTES))
    lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])


class _MemoryWatch:
    """Samples the memory of a process tree in a thread, until stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch")
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        self._sample()
        while not self._ended.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        sizes = [_memory(pid) for pid in _tree(self._pid)]
        together, alone = sum(now for now, _ in sizes), max(peak for _, peak in sizes)
        self._peak = max(self._peak, together, alone)


def _tree(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text().split()]
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes now and at their peak. File pages that a mapping shares with the page cache count too."""
    now = peak = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                now = int(line.split()[1]) * 1024
            elif line.startswith("VmHWM"):
                peak = int(line.split()[1]) * 1024
    return now, peak
