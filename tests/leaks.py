"""What a test may leave behind: nothing. Threads, file descriptors, child processes and mounts are counted around it.

What fixtures of a wider scope start is there before the first count and after the last, so it does not show. Of mounts, those
below the session's own folder count: a test mounts where its files are, and other sessions mount beside us.
"""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_GRACE_S = 20.0
"""Nobody who leaves nothing waits for it: a machine that stands still for seconds makes no leak."""

shared: set[int] = set()
"""Processes of a server that the whole run shares: a test may restart it, which makes a new process."""
lasting: set[threading.Thread] = set()
"""Threads that are started once, by whichever test needs them first, and live as long as the run."""


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds now."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]
    children: frozenset[str]
    mounts: frozenset[str]

    def beyond(self, before: Held) -> list[str]:
        """One line for each thing held now that was not held before."""
        said = [f"thread {thread.name}" for thread in self.threads - before.threads]
        said += [f"descriptor {number} -> {target}" for number, target in sorted(self.descriptors - before.descriptors)]
        said += [f"process {pid}: {_command(pid)}" for pid in sorted(self.children - before.children)]
        return said + [f"mount {mount}" for mount in sorted(self.mounts - before.mounts)]


def held(folder: Path) -> Held:
    return Held(frozenset(threading.enumerate()) - lasting, _descriptors(), _children(), _mounts(folder))


def leaked_since(before: Held, folder: Path) -> list[str]:
    """What is still held after garbage collection and much patience (threads may be on their way out)."""
    leaked = held(folder).beyond(before)
    deadline_s = time.monotonic() + _GRACE_S
    while leaked and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.02)
        leaked = held(folder).beyond(before)
    return leaked


def _descriptors() -> frozenset[tuple[str, str]]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # the listing's own descriptor
        # gRPC keeps an eventfd for each of its threads that ever waited, and the GPU's driver is a process's once it is called
        if target != "anon_inode:[eventfd]" and not target.startswith("/dev/nvidia"):
            found.add((link.name, target))
    return frozenset(found)


def _children() -> frozenset[str]:
    found = set[str]()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
    return frozenset(found - {str(pid) for pid in shared})


def _mounts(folder: Path) -> frozenset[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(" ".join(line.split(" ")[2:5]) for line in lines if line.split(" ")[4].startswith(f"{folder}/"))


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except FileNotFoundError:
        return "gone meanwhile"
