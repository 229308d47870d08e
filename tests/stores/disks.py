"""Disks that count, die, fail or write short: each in place of the store's one seam to the file system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from prestage.cacher.store.disk import Disk, translated

_T = TypeVar("_T")


class CountingDisk(Disk):
    """Counts the calls that change the disk, once armed."""

    def __init__(self) -> None:
        self.calls = 0
        self.armed = False

    def _do(self, call: Callable[[], _T], path: Path) -> _T:
        if not self.armed:
            return super()._do(call, path)
        self.before(path)
        result = super()._do(call, path)
        self.after(path)
        self.calls += 1
        return result

    def sync_many(self, paths: Sequence[Path]) -> None:
        """One after the other: a count is a point in time."""
        for path in paths:
            super().sync_many([path])

    def before(self, path: Path) -> None:
        """Called ahead of each call."""

    def after(self, path: Path) -> None:
        """Called when a call is done."""


class KillingDisk(CountingDisk):
    """Kills its process before or after call number `fatal` (from 0), as `kill -9` would."""

    def __init__(self, fatal: int, *, after: bool) -> None:
        super().__init__()
        self._fatal, self._after = fatal, after

    def before(self, path: Path) -> None:
        if self.calls == self._fatal and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, path: Path) -> None:
        if self.calls == self._fatal and self._after:
            os.kill(os.getpid(), signal.SIGKILL)


class FailingDisk(CountingDisk):
    """Call number `fatal` and the `times - 1` after it fail with `number`; `hit` says that it came to that."""

    def __init__(self, fatal: int, number: int, *, times: int = 1) -> None:
        super().__init__()
        self._fatal, self._number, self._times = fatal, number, times
        self.hit = False

    def before(self, path: Path) -> None:
        if self._fatal <= self.calls < self._fatal + self._times:
            self.hit = True
            self.calls += 1
            raise translated(OSError(self._number, os.strerror(self._number)), path)


class ShortDisk(Disk):
    """Writes a part of what it is given; `part` of it, but at least a byte (O_DIRECT: a block)."""

    def __init__(self, part: float = 0.5) -> None:
        self._part = part
        self.shortened = 0

    def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
        block = 4096 if len(view) % 4096 == 0 else 1
        if len(view) <= block:
            return super().pwrite(fd, view, offset)
        count = max(block, int(len(view) * self._part) // block * block)
        self.shortened += count < len(view)
        return super().pwrite(fd, view[:count], offset)
