"""Unix sockets that we listen on: a stale one is replaced, somebody else's is not."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from prestage.cacher.errors import Misconfigured

PATH_BYTES_MAX = 107
"""sun_path less its NUL (unix(7))."""
_CONNECT_S = 2.0


def check_path(path: Path) -> None:
    """Raises Misconfigured when the kernel would not take it."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise Misconfigured(f"the socket path {str(path)!r} is longer than {PATH_BYTES_MAX} bytes", hint="give a shorter one")


def answers(path: Path) -> bool:
    """Somebody listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_CONNECT_S)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def bound(path: Path, *, mode: int) -> socket.socket:
    """A bound socket in place of a stale one, never reachable with a wider mode than `mode`.

    Raises:
        Misconfigured: too long, in use, not a socket, or the folder does not allow it.
    """
    check_path(path)
    if answers(path):
        raise Misconfigured(f"somebody listens at {path} already", hint="give another path")
    unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
    except OSError as exc:
        sock.close()
        raise Misconfigured(f"cannot listen at {path}: {exc.strerror}", hint="check the folder of the socket") from exc
    return sock


def bound_sealed(path: Path, *, mode: int) -> socket.socket:
    """The same in a folder that nobody may write to: opened for the moment. The path may be long: its clients have another one.

    Raises:
        Misconfigured: as `bound`.
    """
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise Misconfigured(f"cannot listen at {path}: {exc.strerror}", hint="was the tree dropped meanwhile?") from exc
    try:
        before = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, 0o755)
        try:
            return bound(Path(f"/proc/self/fd/{fd}") / path.name, mode=mode)
        finally:
            os.fchmod(fd, before)
    finally:
        os.close(fd)


def unlink(path: Path) -> None:
    """Remove a socket of that name; anything else stays."""
    with suppress(OSError):
        if path.is_socket():
            path.unlink()
