"""The two locks of a store, both flock(2): gone with their process, whatever kills it.

`owner` is held for as long as a process fetches, evicts or repairs. `gate` is held for moments: whoever makes a hold and whoever
evicts pass through it one at a time, so that a hold is either seen by the evict or finds the artifact gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prestage.cacher.errors import Busy

_POLL_S = 0.05
_GATE_TIMEOUT_S = 30.0


class OwnerLock:
    """Says who owns the store; released by `close` or by death."""

    def __init__(self, path: Path, *, purpose: str, wait_s: float) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        try:
            while not _try(self._fd):
                if time.monotonic() >= deadline:
                    raise _busy(path)
                time.sleep(_POLL_S)
            said = json.dumps({"pid": os.getpid(), "purpose": purpose, "since": time.time()}).encode()
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, said, 0)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give the store free."""
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


@contextmanager
def gate(path: Path) -> Iterator[None]:
    """Pass through the gate alone.

    Raises:
        Busy: somebody kept it for half a minute; nothing of ours does.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _GATE_TIMEOUT_S
        while not _try(fd):
            if time.monotonic() >= deadline:
                raise Busy(f"{path} is locked by another process", hint="find it with: fuser " + str(path))
            time.sleep(0.002)
        yield
    finally:
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(path: Path) -> Busy:
    who = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_bytes())
        seconds = max(0, round(time.time() - float(said["since"])))
        who = f"process {int(said['pid'])} ({said['purpose'] or 'prestage'}) since {seconds} s ago"
    return Busy(f"the store {path.parent} is owned by {who}", hint="try again when it is done, or wait for it with --wait 5m")
