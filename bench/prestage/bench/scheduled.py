"""One model declared for a moment ahead, on a store of its own: an agent and `prestage node --standalone`, as people run them."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prestage.cacher.errors import Unavailable

_READY, _LATE = "window_ready", "window_late"
_BEGIN_S = 30.0
_END_S = 15.0


@dataclass(frozen=True, slots=True)
class Ahead:
    """`ahead_s`: how long before its deadline it was there; negative: late."""

    ref: str
    notice_s: float
    ahead_s: float


def declare(ref: str, folder: Path, environment: Mapping[str, str], *, notice_s: float) -> Ahead:
    """`folder`: for the file and logs. The store is in the system's temporary folder: a socket's path is short.

    Raises:
        Unavailable: it was not there a while after its time, or a part ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "demand.yaml", folder / "standalone.log"
    with ExitStack() as ending:
        root = Path(ending.enter_context(TemporaryDirectory(prefix="prestage-demo-"))) / "store"
        agent = ending.enter_context(_running(_agent(root), folder / "agent.log", environment))
        deadline = time.time() + notice_s
        moment = datetime.datetime.fromtimestamp(deadline, datetime.UTC).isoformat()
        file.write_text(f"models: [{{ref: '{ref}', windows: [{{name: demo, readyBy: '{moment}', duration: 10m}}]}}]\n")
        node = ending.enter_context(_running(_node(root, file), log, environment))
        while _READY not in log.read_text():
            if agent.poll() is not None or node.poll() is not None or time.time() > deadline + _BEGIN_S:
                raise Unavailable(f"{ref} was not there in time", hint=f"read {log} and {folder / 'agent.log'}")
            time.sleep(0.05)
        return Ahead(ref, notice_s, deadline - time.time())


def _agent(root: Path) -> list[str]:
    return [sys.executable, "-m", "prestage.cacher.cli", "agent", "--root", str(root), "--listen", "none"]


def _node(root: Path, file: Path) -> list[str]:
    argv = ["node", "--standalone", "--demand", str(file), "--root", str(root)]
    return [sys.executable, "-m", "prestage.cacher.cli", *argv]


@contextmanager
def _running(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
