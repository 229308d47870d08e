"""The locks of a store, all flock(2): gone with their process, whatever kills it.

`owner` is held for as long as a process fetches, evicts or repairs. `gate` is held for moments: whoever makes a hold and whoever
evicts pass through it one at a time, so that a hold is either seen by the evict or finds the artifact gone. `successor` is held
by an agent that waits to become the owner: a command that owns the store meanwhile sees it and makes way.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.errors import Busy

_POLL_S = 0.05
_GATE_TIMEOUT_S = 30.0
_LOOK_S = 0.3
"""Whoever looks at a lock (`owner_of`, `is_awaited`) holds it shared for moments: that is nobody who is in the way."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a store now."""

    pid: int
    purpose: str
    since: float
    """Seconds since the epoch."""
    socket: Path | None = None
    """Where it listens, when it is an agent."""


class OwnerLock:
    """Says who owns the store; released by `close` or by death."""

    def __init__(self, path: Path, *, purpose: str, wait_s: float, socket: Path | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + max(wait_s, _LOOK_S)
        try:
            while not _try(self._fd):
                if time.monotonic() >= deadline:
                    raise _busy(path)
                time.sleep(_POLL_S)
            said: dict[str, object] = {"pid": os.getpid(), "purpose": purpose, "since": time.time()}
            if socket is not None:
                said["socket"] = str(socket)
            self._note(json.dumps(said).encode())
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give the store free."""
        with suppress(OSError):
            self._note(b"")
        os.close(self._fd)

    def _note(self, said: bytes) -> None:
        """Written over what stands there: it keeps its block, for a full disk has none, and is opened to evict."""
        try:
            os.pwrite(self._fd, said.ljust(os.fstat(self._fd).st_size), 0)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.ftruncate(self._fd, 0)  # nobody is named rather than who was before


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


def owner_of(root: Path) -> Owner | None:
    """Who owns the store at `root`, None if nobody does, or nobody who says who he is."""
    path = root / "owner"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _said(path)
    finally:
        os.close(fd)
    return None


def _said(path: Path) -> Owner | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_bytes())
        socket = Path(said["socket"]) if "socket" in said else None
        return Owner(int(said["pid"]), str(said["purpose"] or "prestage"), float(said["since"]), socket)
    return None


@contextmanager
def awaiting(root: Path) -> Iterator[None]:
    """Let the owner know that an agent waits to take over. Without a store there is nobody to tell."""
    try:
        fd = os.open(root / "successor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield
        return
    try:
        deadline = time.monotonic() + _LOOK_S
        while not _try(fd) and time.monotonic() < deadline:
            time.sleep(0.002)
        yield
    finally:
        os.close(fd)


def is_awaited(root: Path) -> bool:
    """An agent waits to take over."""
    try:
        fd = os.open(root / "successor", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _busy(path: Path) -> Busy:
    owner = _said(path)
    if owner is None:
        who = "another process"
    else:
        who = f"process {owner.pid} ({owner.purpose}) since {max(0, round(time.time() - owner.since))} s ago"
    return Busy(f"the store {path.parent} is owned by {who}", hint="try again when it is done, or wait for it with --wait 5m")
