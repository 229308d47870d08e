"""Pages of memory by libc: mapped, anonymous, faulted in, given back. Calls release the GIL; mmap's own madvise holds it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MADV_DONTNEED = 4
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22
"""Linux 5.14 and later; before, pages are faulted in when they are touched, as with the safetensors library."""
_MADV_POPULATE_WRITE = 23
"""Of the same age."""
_HINT_BYTES = 128 << 10
"""Linux' default read-ahead, and what one FADV_WILLNEED is cut to."""
_AMPLE_READ_AHEAD_BYTES = 2 << 20
"""From here on populating alone keeps the device busy: measured with 8 MiB, 2.0-2.7 GB/s, and hints gained nothing."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE


def map_file(fd: int, size: int, path: str, *, at: int | None = None, offset: int = 0) -> int:
    """Map `size` bytes copy-on-write; over what lies at `at`, if given. NORESERVE, so that a file may be larger than memory.

    Raises:
        OSError: not mappable, or no address space.
    """
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE | (_MAP_FIXED if at is not None else 0)
    return _checked(_libc.mmap(at, size, _WRITABLE, flags, fd, offset), path)


def map_shared(fd: int, size: int, path: str) -> int:
    """Map `size` bytes as the page cache has them, read only. Raises: as `map_file`."""
    return _checked(_libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_NORESERVE, fd, 0), path)


def reserve(size: int, *, at: int | None = None) -> int:
    """Anonymous, zeroed on demand, costs nothing until touched; over what lies at `at`, if given. Raises: OSError."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | (_MAP_FIXED if at is not None else 0)
    return _checked(_libc.mmap(at, size, _WRITABLE, flags, -1, 0), None)


def unmap(address: int, size: int) -> None:
    """Whatever was mapped there."""
    _libc.munmap(address, size)


def give_back(address: int, size: int) -> None:
    """Drop whole pages: anonymous ones read as zeros from now on."""
    _libc.madvise(address, size, _MADV_DONTNEED)


def want_huge(address: int, size: int) -> bool:
    """Ask for huge pages; False where the system does not give any."""
    return not _libc.madvise(address, size, _MADV_HUGEPAGE)


def populate(address: int, size: int) -> int:
    """Have the pages of a mapping in memory and in the page table; blocks on the disk. `address` is page-aligned.

    Returns 0, or the errno: no page was touched by the caller, so that a bad disk or a shrunken file is no signal.
    """
    while _libc.madvise(address, size, _MADV_POPULATE_READ):
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            return 0
        if code not in (errno.EINTR, errno.EAGAIN):
            return code
    return 0


def prefault(address: int, size: int) -> bool:
    """Have anonymous memory there before it is written; what it holds stays. `address` is page-aligned. False: the system does
    not know how, or has no memory."""
    while _libc.madvise(address, size, _MADV_POPULATE_WRITE):
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            return False
    return True


def hint(fd: int, start: int, stop: int) -> None:
    """Have the disk begin with [start, stop) of a file, in pieces that the kernel does not cut."""
    for offset in range(start, stop, _HINT_BYTES):
        os.posix_fadvise(fd, offset, min(_HINT_BYTES, stop - offset), os.POSIX_FADV_WILLNEED)


def needs_hints(device: int) -> bool:
    """Whether the read-ahead of the disk under a file is too short to keep it busy."""
    return _read_ahead_bytes(device) < _AMPLE_READ_AHEAD_BYTES


def _read_ahead_bytes(device: int) -> int:
    """Linux' default where /sys does not say (overlay, network, containers without /sys)."""
    link = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in ("queue", "../queue"):
        try:
            with open(f"{link}/{queue}/read_ahead_kb", "rb") as source:
                return int(source.read()) * 1024
        except (OSError, ValueError):
            continue
    return _HINT_BYTES


def _checked(address: int | None, path: str | None) -> int:
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(address)
