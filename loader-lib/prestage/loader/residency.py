"""Whether bytes of a file are in the page cache, asked in the one way that is right for every reader.

`preadv2(RWF_NOWAIT)` of single bytes on a descriptor set to FADV_RANDOM: answers from memory or not at all. The kernel does
fetch the one absent page behind an answer's back (no more: FADV_RANDOM stops read-ahead), so a place that was asked says
"resident" the next time. Hence places are drawn anew for every question: two that ask about one file do not fool each other.
mincore and cachestat are not asked while loading: to other users than the owner mincore calls everything resident, cachestat is
refused, and on overlayfs it counts 0. `counted_bytes` asks cachestat where it may be believed, for a person to read.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from enum import Enum

from prestage.loader.pages import PAGE

_SYS_CACHESTAT = 451
"""Linux 6.5 and later, the same number on all 64-bit architectures."""
_SAMPLES = 4
"""Of a block of 8 MiB. What others leave behind in the page cache or take from it comes in larger pieces than that."""
_MEMORY_FILE_SYSTEMS = (0x01021994, 0x858458F6)
"""TMPFS_MAGIC and RAMFS_MAGIC of linux/magic.h; f_type is the first field of struct statfs."""
_ANYWHERE = [bytearray(1)]
"""Where a byte that was asked for goes. Nobody reads it, so all threads share it."""


class Residency(Enum):
    """Of a range of a file, by samples."""

    RESIDENT = "resident"
    ABSENT = "absent"
    PARTLY = "partly"
    UNKNOWN = "unknown"
    """The file system cannot tell (EOPNOTSUPP)."""


def open_probe(path: str) -> int:
    """A descriptor to ask with. Its own open file description: FADV_RANDOM would switch off a mapping's read-ahead too."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    return fd


def is_resident(probe: int, offset: int) -> bool | None:
    """Whether the page at `offset` is in memory; None where the file system cannot tell (NFS, FUSE). Raises: OSError."""
    try:
        return os.preadv(probe, _ANYWHERE, offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        return True if _is_memory(probe) else None


def _is_memory(fd: int) -> bool:
    """Whether the file lies on tmpfs or ramfs, which know no RWF_NOWAIT and have nothing but memory."""
    found = (ctypes.c_long * 64)()
    if ctypes.CDLL(None, use_errno=True).fstatfs(fd, found):
        return False
    return found[0] & 0xFFFFFFFF in _MEMORY_FILE_SYSTEMS


def all_resident(probe: int, start: int, stop: int) -> bool:
    """Whether all samples of [start, stop) are resident. Asks no further than the first that is not: the disk is busy, and each
    absent place costs it a read. Raises: OSError."""
    return all(is_resident(probe, place) for place in _places(start, stop, _SAMPLES))


def sampled(probe: int, start: int, stop: int, samples: int = _SAMPLES) -> Residency:
    """What samples of [start, stop) say. Raises: OSError."""
    found = {is_resident(probe, place) for place in _places(start, stop, samples)}
    if None in found:
        return Residency.UNKNOWN
    if len(found) == 2:
        return Residency.PARTLY
    return Residency.RESIDENT if found == {True} else Residency.ABSENT


def _places(start: int, stop: int, samples: int) -> Iterator[int]:
    """One place drawn in each of `samples` equal parts of [start, stop)."""
    # not by `random`: importing it takes longer than a small load
    draws = memoryview(os.urandom(4 * samples)).cast("I")
    size = stop - start
    return (start + (size * number + size * draw // (1 << 32)) // samples for number, draw in enumerate(draws))


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Count(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


def counted_bytes(fd: int) -> int | None:
    """Bytes of an open file in the page cache by cachestat, in whole pages; None where it must not be believed.

    Believed as owner or root only, and when it does not say "none" of a file whose pages a read finds.
    """
    state = os.fstat(fd)
    if os.geteuid() not in (0, state.st_uid):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    span, found = _Range(0, state.st_size), _Count()
    if libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(found), 0):
        return None
    if not found.cache and state.st_size and is_resident(fd, 0):
        return None
    return min(int(found.cache) * PAGE, -(-state.st_size // PAGE) * PAGE)
