"""What a file's bytes are: the SHA-256 of all of them, the CRC64NVME of each part, from one reading.

The CRCs go with the parts: S3 refuses bytes that do not have them, so a file that changes between this reading and the upload is
noticed by the server.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prestage.cacher.errors import Busy
from prestage.cacher.transfer.checksums import algorithm
from prestage.cacher.transfer.ports import Cancelled

if TYPE_CHECKING:
    from typing_extensions import Buffer

PART_BYTES = 16 << 20
_PARTS_MAX = 9000
"""S3 allows 10,000."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file that are sent as one."""

    number: int
    """From 1, as S3 counts."""
    start: int
    size_bytes: int
    checksum: str
    """CRC64NVME as S3 writes it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A file's bytes, as they were when it was read."""

    size_bytes: int
    sha256: str
    checksum: str
    """CRC64NVME of all of it, as S3 writes it."""
    parts: tuple[Part, ...]
    """In order; at least one, of an empty file an empty one."""


def part_bytes(size_bytes: int) -> int:
    """How a file of that size is cut: the same in every run, for what was cut otherwise cannot be gone on with."""
    return max(PART_BYTES, -(-size_bytes // _PARTS_MAX))


def read_contents(path: Path, size_bytes: int, leaving: threading.Event | None = None) -> Contents:
    """Read it once.

    Raises:
        Busy: it cannot be read any more, or has another size.
        Cancelled: `leaving` was set.
    """
    crc, sha256, buffer = algorithm("crc64nvme"), hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
    parts: list[Part] = []
    whole = 0
    try:
        with path.open("rb", buffering=0) as file:
            for number, start in enumerate(range(0, max(size_bytes, 1), part_bytes(size_bytes)), 1):
                length = min(part_bytes(size_bytes), size_bytes - start)
                value, left = 0, length
                while left and (count := file.readinto(buffer[:left])):
                    if leaving is not None and leaving.is_set():
                        raise Cancelled
                    sha256.update(buffer[:count])
                    value = crc.update(buffer[:count], value)
                    left -= count
                if left:
                    raise Busy(f"{path} became shorter", hint="publish again when it is at rest")
                parts.append(Part(number, start, length, _stated(value)))
                whole = crc.combine(whole, value, length)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as exc:
        raise gone(path, exc) from exc
    return Contents(size_bytes, sha256.hexdigest(), _stated(whole), tuple(parts))


def _stated(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


class Slice(io.RawIOBase):
    """A part of a file as boto3 reads it: once to sign it, where the wire is not TLS, then to send it, again after a failure.
    `moved(n)`: bytes that were handed to the network; < 0 takes back what has to be sent again. Counts while `is_sending`.
    """

    def __init__(self, file: io.FileIO, part: Part, moved: Callable[[int], None]) -> None:
        self._file, self._part, self._moved = file, part, moved
        self._at = self._sent = 0
        self.is_sending = False

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """From the part's start."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Inside the part."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._part.size_bytes}[whence]
        self._at = min(max(0, origin + offset), self._part.size_bytes)
        if self._at == 0:
            self._count(-self._sent)
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        """See io.RawIOBase."""
        view = memoryview(buffer).cast("B")[: self._part.size_bytes - self._at]
        count = os.preadv(self._file.fileno(), [view], self._part.start + self._at) if view else 0
        if view and not count:  # it became shorter: S3 must get as many bytes as were announced, and refuses them by their CRC
            view[:] = bytes(len(view))
            count = len(view)
        self._at += count
        if self.is_sending:
            self._count(count)
        return count

    def _count(self, size_bytes: int) -> None:
        self._sent += size_bytes
        if size_bytes:
            self._moved(size_bytes)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
        super().close()


def open_slice(path: Path, part: Part, moved: Callable[[int], None]) -> Slice:
    """Of that file; close it.

    Raises:
        Busy: it cannot be read any more.
    """
    try:
        return Slice(io.FileIO(path), part, moved)
    except OSError as exc:
        raise gone(path, exc) from exc


def gone(path: Path, exc: OSError) -> Busy:
    """A file that was there a moment ago."""
    return Busy(f"{path} cannot be read any more: {exc.strerror}", hint="publish again when it is at rest")
