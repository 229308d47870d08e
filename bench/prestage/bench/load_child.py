"""Fresh processes for `bench load`, each handed memory that was faulted in just before.

In a virtual machine whose hypervisor takes free pages back, the first touch of memory costs 0.2-2 s/GB and would swamp every
loader alike; on bare metal this changes nothing. Bounded: a child that outlives its time is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prestage.bench.child import ChildFailed
from prestage.bench.machine import LoadWatch

_LOAD = "prestage.bench.load_run"
_TIMEOUT_S = 900
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23


def run(
    variants: Sequence[str],
    framework: str,
    files: Sequence[Path],
    memory_bytes: int,
    ready: Callable[[], object],
    *,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """Run one child for each variant, all at the same time; what each of them measured, and `foreign_cores`. `ready` is called
    last before that: handing memory over takes seconds, in which files that were read leave the page cache again.

    Raises:
        ChildFailed
    """
    with ExitStack() as stack:
        arguments = (framework, device, *map(str, files))
        children = [_child(stack, _LOAD, variant, *arguments) for variant in variants]
        for child in children:
            _wait_until_ready(child)
        _faulted(memory_bytes).close()
        ready()
        watch = LoadWatch()
        for child in children:
            assert child.process.stdin
            child.process.stdin.write("go\n")
            child.process.stdin.flush()
        samples = [_answer(child) for child in children]
        # before they end: to unload torch takes a core longer than many a load
        foreign = watch.foreign_cores(sum(sample["cpu_s"] for sample in samples))
        for child in children:
            _ended(child)
        return [{**sample, "total_s": sample["load_s"] + sample["touch_s"], "foreign_cores": foreign} for sample in samples]


def cuda_devices() -> int:
    """How many torch sees: asked in a child, so that who only watches has no context on a device.

    Raises:
        ChildFailed
    """
    with ExitStack() as stack:
        child = _child(stack, "prestage.bench.load_device")
        found = int(_answer(child)["devices"])
        _ended(child)
        return found


def run_script(part: str, framework: str, folder: Path, memory_bytes: int, ready: Callable[[], object]) -> dict[str, float]:
    """Run one part of `load_script`: seconds from its start to its first tensor and to all, and `foreign_cores`. The framework's
    own files are in the page cache, as on a node that ran it before: an import is made first, by no clock.

    Raises:
        ChildFailed
    """
    with ExitStack() as stack:
        _script(stack, "script-import", framework, folder)
    _faulted(memory_bytes).close()
    ready()
    watch, used = LoadWatch(), _children_cpu_s()
    with ExitStack() as stack:
        said = _script(stack, part, framework, folder)
    return {
        "first_s": said["FIRST"],
        "total_s": said["ALL"],
        "foreign_cores": watch.foreign_cores(_children_cpu_s() - used),
    }


def _script(stack: ExitStack, part: str, framework: str, folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    child = _child(stack, "prestage.bench.load_script", part, framework, str(folder))
    assert child.process.stdout
    said = {line.strip(): time.perf_counter() - began for line in child.process.stdout}
    if child.process.wait() or "ALL" not in said:
        raise _failure(child)
    return said


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[str]
    errors: IO[str]
    """What it says on stderr: a file, which never fills while nobody reads it."""


def _child(stack: ExitStack, module: str, *arguments: str) -> _Child:
    """A fresh interpreter with the same path as this one; killed with `stack`, or after its time."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PRESTAGE_LOADER_QUIET": "1",
        "RUNAI_STREAMER_LOG_TO_STDERR": "0",
    }
    errors = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115 - the stack is one
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    )
    stack.callback(process.kill)
    timer = threading.Timer(_TIMEOUT_S, process.kill)
    timer.start()
    stack.callback(timer.join)
    stack.callback(timer.cancel)
    return _Child(process, errors)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_until_ready(child: _Child) -> None:
    assert child.process.stdout
    for line in child.process.stdout:
        if line.strip() == "READY":
            return
    raise _failure(child)


def _answer(child: _Child) -> dict[str, float]:
    """As soon as it is there. What libraries print is no JSON object."""
    assert child.process.stdout
    for line in child.process.stdout:
        if line.startswith("{"):
            answer: dict[str, float] = json.loads(line)
            return answer
    raise _failure(child)


def _ended(child: _Child) -> None:
    child.process.communicate()
    if child.process.returncode:
        raise _failure(child)


def _failure(child: _Child) -> ChildFailed:
    """It has ended, or is about to."""
    if child.process.wait() == -signal.SIGKILL:
        return ChildFailed(f"{child.process.args!r} was killed: it took over {_TIMEOUT_S} s, or there was no memory")
    child.errors.seek(0)
    words = " | ".join(line for line in child.errors.read().splitlines()[-3:] if line.strip())
    return ChildFailed(f"{child.process.args!r} ended early: {words or 'it said nothing'}", hint="run it by hand to see more")


def _faulted(size_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_HUGEPAGE)
    try:
        memory.madvise(_MADV_POPULATE_WRITE)
    except OSError:  # before Linux 5.14
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            memory[offset] = 1
    return memory
