"""The programs of one cluster: started with a log each, ended by their own handles, dead with the test process at the latest."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import leaks

from servers.programs import until_stopped

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_STARTER = ThreadPoolExecutor(
    1, thread_name_prefix="cluster-starter", initializer=lambda: leaks.lasting.add(threading.current_thread())
)
"""All children are its: the kernel ends them when the *thread* that forked them ends, and a test's own threads end with it."""

Answer = TypeVar("Answer")


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Processes:
    """Name to running program; `folder` takes `<name>.log`. `shared` by the whole run: a test may restart them."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder, self._shared = folder, shared
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, argv: Sequence[str | Path], *, stdin: int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = _STARTER.submit(
                subprocess.Popen[bytes],
                [str(word) for word in argv],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=None if env is None else {**os.environ, **env},
                preexec_fn=_die_with_parent,  # threads of the parent hold no lock that prctl needs
                start_new_session=True,
            ).result()
        self._running[name] = process
        if self._shared:
            leaks.shared.add(process.pid)
        return process

    def kill(self, name: str) -> None:
        """SIGKILL, and wait: nothing is given time to tidy up, as in a crash."""
        process = self._running.pop(name)
        process.kill()
        process.wait(10)
        leaks.shared.discard(process.pid)
        if process.stdin:
            process.stdin.close()

    def signal(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    def pause(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)
        until_stopped(self._running[name].pid)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def kill_all(self) -> None:
        for name in reversed(list(self._running)):
            self.kill(name)

    def last_words(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def wait_for(self, question: Callable[[], Answer | None], *, what: str, timeout_s: float = 60.0) -> Answer:
        """Ask until the answer is truthy. OSError counts as "not yet"; a program that ended meanwhile fails it."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                if answer := question():
                    return answer
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self.last_words(name)}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
            time.sleep(0.05)
