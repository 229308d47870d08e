"""A cold page cache: dropped, and proved dropped. A "cold" figure that nobody proved is a warm one.

    fsync -> posix_fadvise(DONTNEED) -> count what is left by mincore(2) and, where the kernel has it, cachestat(2)

Only for files that this user owns: for a foreign uid on a read-only mount mincore calls a cold file resident and cachestat
refuses; on overlayfs cachestat reads 0 for a warm file. So the larger of the two counts is what we believe.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

from prestage.cacher.errors import Busy

_SYS_CACHESTAT = 451
"""Linux 6.5 and later, the same number on all 64-bit architectures."""
_PAGE = mmap.PAGESIZE
_ATTEMPTS = 40
_PAUSE_S = 0.05
"""Pages that sit in a per-CPU list or are under write-back cannot be dropped at once."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class StillWarm(Busy):
    """Pages stayed in memory, so a cold run would not be one."""


class _CachestatRange(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


def make_cold(files: Iterable[Path]) -> int:
    """Drop every page of `files` and prove it. Returns the bytes that are cold now.

    Raises:
        StillWarm: something maps or locks a file, or the file system keeps no page cache of its own (tmpfs).
    """
    total = 0
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            total += _drop(fd, file)
        finally:
            os.close(fd)
    return total


def resident_bytes(file: Path) -> int:
    """Bytes of `file` in the page cache, in whole pages; the larger of what mincore and cachestat say."""
    fd = os.open(file, os.O_RDONLY)
    try:
        return _resident(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def make_warm(files: Iterable[Path]) -> int:
    """Read every byte of `files` once, so that the page cache holds them. Returns the bytes read."""
    total = 0
    block = bytearray(4 << 20)
    for file in files:
        with open(file, "rb", buffering=0) as source:
            while count := source.readinto(block):
                total += count
    return total


def _drop(fd: int, file: Path) -> int:
    size = os.fstat(fd).st_size
    os.fsync(fd)
    left = size
    for _ in range(_ATTEMPTS):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        left = _resident(fd, size)
        if left == 0:
            return size
        time.sleep(_PAUSE_S)
    raise StillWarm(
        f"{left} of {size} bytes of {str(file)!r} stay in the page cache",
        hint="end what maps the file, and measure on a disk (tmpfs has no cold state)",
    )


def _resident(fd: int, size: int) -> int:
    if size == 0:
        return 0
    return max(_by_mincore(fd, size), _by_cachestat(fd, size))


def _by_mincore(fd: int, size: int) -> int:
    """Mapped by hand: Python's mmap object gives no address without touching the first page."""
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap failed")
    try:
        pages = (size + _PAGE - 1) // _PAGE
        flags = bytearray(pages)
        target = (ctypes.c_ubyte * pages).from_buffer(flags)
        if _libc.mincore(address, size, ctypes.addressof(target)):
            raise OSError(ctypes.get_errno(), "mincore failed")
        # the other seven bits are reserved; every kernel so far leaves them 0
        return (pages - flags.count(0)) * _PAGE
    finally:
        _libc.munmap(address, size)


def _by_cachestat(fd: int, size: int) -> int:
    span, found = _CachestatRange(0, size), _Cachestat()
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(found), 0):
        return 0
    return int(found.cache) * _PAGE
