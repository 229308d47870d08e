"""Fresh processes for `bench load`, each handed memory that was faulted in just before.

In a virtual machine whose hypervisor takes free pages back, the first touch of memory costs 0.2-2 s/GB and would swamp every
loader alike; on bare metal this changes nothing. Bounded: a child that outlives its time is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from prestage.bench.child import ChildFailed
from prestage.bench.machine import LoadWatch

_TIMEOUT_S = 900
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23


def run(
    variants: Sequence[str], framework: str, files: Sequence[Path], memory_bytes: int, ready: Callable[[], object]
) -> list[dict[str, float]]:
    """Run one child for each variant, all at the same time; what each of them measured, and `foreign_cores`. `ready` is called
    last before that: handing memory over takes seconds, in which files that were read leave the page cache again.

    Raises:
        ChildFailed
    """
    with ExitStack() as stack:
        children = [_child(stack, "prestage.bench.load_run", variant, framework, *map(str, files)) for variant in variants]
        for child in children:
            _wait_until_ready(child)
        _faulted(memory_bytes).close()
        ready()
        watch = LoadWatch()
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        samples = [_answer(child) for child in children]
        foreign = watch.foreign_cores(sum(sample["cpu_s"] for sample in samples))
        return [{**sample, "total_s": sample["load_s"] + sample["touch_s"], "foreign_cores": foreign} for sample in samples]


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
    assert child.stdout
    said = {line.strip(): time.perf_counter() - began for line in child.stdout}
    if child.wait(_TIMEOUT_S) or "ALL" not in said:
        raise _failure(child, child.stderr.read() if child.stderr else "")
    return said


def _child(stack: ExitStack, module: str, *arguments: str) -> subprocess.Popen[str]:
    """A fresh interpreter with the same path as this one; killed with `stack`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PRESTAGE_LOADER_QUIET": "1",
        "RUNAI_STREAMER_LOG_TO_STDERR": "0",
    }
    child = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(child.kill)
    return child


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_until_ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout
    for line in child.stdout:
        if line.strip() == "READY":
            return
    raise _failure(child, child.stderr.read() if child.stderr else "")


def _answer(child: subprocess.Popen[str]) -> dict[str, float]:
    try:
        said, errors = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise ChildFailed(f"{child.args!r} took over {_TIMEOUT_S} s and was killed") from exc
    if child.returncode:
        raise _failure(child, errors)
    answer: dict[str, float] = json.loads(said.splitlines()[-1])
    return answer


def _failure(child: subprocess.Popen[str], errors: str) -> ChildFailed:
    words = " | ".join(line for line in errors.splitlines()[-3:] if line.strip())
    return ChildFailed(f"{child.args!r} ended early: {words or 'it said nothing'}", hint="run it by hand to see more")


def _faulted(size_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_HUGEPAGE)
    try:
        memory.madvise(_MADV_POPULATE_WRITE)
    except OSError:  # before Linux 5.14
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            memory[offset] = 1
    return memory
