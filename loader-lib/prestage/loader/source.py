"""One shard, opened for reading: asks what is in memory, reads past the page cache or through it. Descriptors come when needed.

What is read must be the file whose header was read: another one under the same name is refused.
"""

from __future__ import annotations

import errno
import os
import threading

from prestage.loader import pages, residency
from prestage.loader.checkpoint import Shard, identified
from prestage.loader.residency import Residency

_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
"""How file systems say that they do not know O_DIRECT, at open or at the first read."""
_SAMPLES_MIN = 16
_SAMPLE_BYTES = 32 << 20
"""Of a whole shard one sample for each 32 MiB, 16 at least. A resident part that all of them miss is read from the disk, an
absent one by the faults of who touches it: slower, and right."""


class Source:
    """A shard's bytes. Thread-safe; at most three descriptors."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._lock = threading.Lock()
        self._cached: int | None = None
        self._probe: int | None = None
        self._direct: int | None = None
        self._direct_refused = False
        self._hints: bool | None = None
        self._whole: Residency | None = None

    @property
    def path(self) -> str:
        """Of the file."""
        return self._shard.path

    @property
    def reads_direct(self) -> bool:
        """Whether O_DIRECT works here, as far as is known."""
        return not self._direct_refused

    def whole(self) -> Residency:
        """Of the shard when this was first asked, by samples. Raises: OSError."""
        if self._whole is None:
            size = self._shard.size_bytes
            self._whole = residency.sampled(self._probe_fd(), 0, size, max(_SAMPLES_MIN, size // _SAMPLE_BYTES))
        return self._whole

    def is_resident(self, start: int, stop: int) -> bool:
        """Whether [start, stop) is in the page cache, by samples. Raises: OSError.

        Asked only of a shard that is there in parts. Each place that is absent costs the disk a read of a page, which beside
        reads of 8 MiB took a tenth of its time, and each that is there a few microseconds of a hot load (docs/loader.md).
        """
        whole = self.whole()
        if whole is Residency.PARTLY:
            return residency.all_resident(self._probe_fd(), start, stop)
        return whole is Residency.RESIDENT

    def cached(self) -> int:
        """A descriptor that reads through the page cache; belongs to the source. Raises: OSError."""
        with self._lock:
            if self._cached is None:
                self._cached = self._open(0)
            return self._cached

    def hint(self, start: int, stop: int) -> None:
        """Have the disk begin with [start, stop), where its own read-ahead would be too timid. Raises: OSError."""
        if self._hints is None:
            self._hints = pages.needs_hints(self._shard.identity.device)
        if self._hints:
            pages.hint(self.cached(), start, stop)

    def read_direct(self, target: memoryview, start: int, stop: int) -> bool:
        """Fill the page-aligned `target` with [start, stop) past the page cache; `start` is page-aligned, and `target` holds
        whole pages also where the file ends inside one. False where O_DIRECT is refused: read through the cache instead.

        Raises:
            OSError: names the file and the bytes.
        """
        fd = self._direct_fd()
        if fd is None:
            return False
        try:
            self._fill(fd, target, start, stop)
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
            self._direct_refused = True
            return False
        return True

    def read_cached(self, target: memoryview, start: int, stop: int) -> None:
        """Fill `target` with [start, stop) through the page cache. Raises: OSError: names the file and the bytes."""
        self._fill(self.cached(), target, start, stop)

    def close(self) -> None:
        """Descriptors only; what was mapped stays. Nobody may be reading."""
        with self._lock:
            for fd in (self._cached, self._probe, self._direct):
                if fd is not None:
                    os.close(fd)
            self._cached = self._probe = self._direct = None

    def _probe_fd(self) -> int:
        with self._lock:
            if self._probe is None:
                self._probe = residency.open_probe(self.path)
            return self._probe

    def _direct_fd(self) -> int | None:
        with self._lock:
            if self._direct is None and not self._direct_refused:
                try:
                    self._direct = self._open(os.O_DIRECT)
                except OSError as exc:
                    if exc.errno not in _REFUSED:
                        raise
                    self._direct_refused = True
            return self._direct

    def _open(self, flags: int) -> int:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            if identified(fd, self.path) != self._shard.identity:
                raise OSError(errno.ESTALE, "the file was replaced or changed while it was being loaded", self.path)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _fill(self, fd: int, target: memoryview, start: int, stop: int) -> None:
        done = 0
        while start + done < stop:
            try:
                count = os.preadv(fd, [target[done:]], start + done)
            except OSError as exc:
                if exc.errno in _REFUSED:
                    raise
                raise OSError(exc.errno, f"bytes {start + done}-{stop} cannot be read ({exc.strerror})", self.path) from exc
            if not count:
                raise OSError(errno.EIO, f"the file ends at byte {start + done}, it had {stop} and more", self.path)
            done += count
