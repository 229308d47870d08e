"""Who may fetch: the bearer tokens of a file. Several are valid at once, so that they can be rotated without a gap."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from prestage.cacher.errors import Misconfigured

_MAX_BYTES = 64 << 10
_BEARER = "bearer "


class Tokens:
    """The tokens of one file. Not thread-safe. A file that is gone, empty or unreadable lets nobody in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._known: tuple[bytes, ...] = ()

    def check(self) -> None:
        """Read the file now.

        Raises:
            Misconfigured: it holds no token.
        """
        self._refresh()
        if not self._known:
            raise Misconfigured(f"{self._path} holds no token", hint="write a random one into it, 0600: openssl rand -hex 32")

    def admits(self, authorization: str) -> bool:
        """Is this the value of an Authorization header with one of the tokens? Takes the same time for every wrong one."""
        self._refresh()
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        given = _hashed(authorization[len(_BEARER) :].strip().encode("latin-1", "replace"))
        found = False
        for token in self._known:
            found |= hmac.compare_digest(token, given)
        return found

    def _refresh(self) -> None:
        try:
            now = self._path.stat()
            state = (now.st_mtime_ns, now.st_ino, now.st_size)
            if state == self._seen:
                return
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                raw = os.read(fd, _MAX_BYTES)
            finally:
                os.close(fd)
        except OSError:
            self._seen, self._known = None, ()
            return
        self._seen, self._known = state, tuple(_hashed(token) for token in read_tokens(raw))


def read_tokens(raw: bytes) -> list[bytes]:
    """One token a line; empty lines and what begins with `#` are none."""
    lines = (line.strip() for line in raw.splitlines())
    return [line for line in lines if line and not line.startswith(b"#")]


def _hashed(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
