"""Files that are given away: proof that they are nobody else's, kept until their old names are gone.

A file can be taken when it has one name and nobody has it open for writing. The kernel proves the latter: a read lease
(fcntl F_SETLEASE) is refused while there is a writer, and afterwards tells of whoever wants to become one, who is kept waiting
(/proc/sys/fs/lease-break-time). Readers do not mind. What changed meanwhile, or was asked for, is not taken away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.errors import Busy, Misconfigured

_STAY = "end what uses it, or adopt without --take: that clones or copies it"


@dataclass(frozen=True, slots=True)
class _Claim:
    fd: int
    size_bytes: int
    modified_ns: int


@dataclass(slots=True)
class Claims:
    """The files that are being taken. One thread; close it."""

    _held: dict[Path, _Claim] = field(default_factory=dict)

    def claim(self, path: Path, *, is_ours: bool = False) -> None:
        """Prove that `path` can be taken. `is_ours`: its other names are the store's own, from a run that was cut off.

        Raises:
            Busy: it has other names, or somebody has it open for writing; says what to do.
            Misconfigured: this file system or this user cannot prove it.
        """
        if path in self._held:
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            raise Misconfigured(
                f"{path} cannot be opened: {exc.strerror}", hint="check that file, and how many may be open"
            ) from exc
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1 and not is_ours:
                raise Busy(f"{path} has {status.st_nlink} names: another one would go on writing to it", hint=_STAY)
            _lease(fd, path)
        except BaseException:
            os.close(fd)
            raise
        self._held[path] = _Claim(fd, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Still nobody else's, and as they were.

        Raises:
            Busy: one of them changed, or somebody wants to write to it.
        """
        for path, claim in self._held.items():
            now = os.fstat(claim.fd)
            if (now.st_size, now.st_mtime_ns) != (claim.size_bytes, claim.modified_ns):
                raise Busy(f"{path} changed while it was taken in", hint="it was left where it is; adopt it again")
            if fcntl.fcntl(claim.fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
                raise Busy(f"somebody opened {path} for writing while it was taken in", hint=f"it was left where it is; {_STAY}")

    def close(self) -> None:
        """Let go of all of them. Idempotent."""
        for claim in self._held.values():
            os.close(claim.fd)
        self._held.clear()


def _lease(fd: int, path: Path) -> None:
    try:
        # The default, SIGIO, would end the process; SIGURG is ignored unless somebody asks for it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        if exc.errno == errno.EAGAIN:
            raise Busy(f"{path} is open for writing in another process", hint=_STAY) from exc
        raise Misconfigured(
            f"it cannot be proved that nobody writes to {path}: no lease ({exc.strerror})",
            hint="run as its owner on a local file system, or adopt without --take: that clones or copies it",
        ) from exc
