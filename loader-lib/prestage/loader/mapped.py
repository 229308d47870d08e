"""One file as private, copy-on-write memory, and how to have its bytes in memory before they are touched.

    file --MAP_PRIVATE, PROT_READ|PROT_WRITE--> view (memoryview of the whole file) --> tensors hold it, the last one unmaps

Private, so that tensors are writable as the safetensors library's are and a write never reaches the file; pages that nobody
wrote are the page cache's own. By libc instead of the mmap module: that keeps a descriptor per mapping (200 shards: 200), cannot
say MAP_NORESERVE (which lets a file larger than memory be mapped writable), and its madvise holds the GIL.

A mapping shows the file as it is whenever a page is read: what is mapped must not be truncated or rewritten in place. The store
never does; for other files backend="pread" makes private copies.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import weakref

_PAGE = mmap.PAGESIZE
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_READ = 22
"""Linux 5.14 and later; before, pages are faulted in when they are touched, as with the safetensors library."""
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


class MappedFile:
    """A regular file, mapped whole. Safe to use from several threads; descriptors and mapping go with the last reference.

    `view` and everything made from it stay valid as long as they are referenced, also after this object is gone.
    """

    def __init__(self, path: str) -> None:
        """Open and map.

        Raises:
            OSError: missing, denied, a directory, or not mappable.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        state = os.fstat(self._fd)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.ENODEV, "not a regular file", path)
        self.size_bytes = state.st_size
        self._address = _map(self._fd, self.size_bytes, path) if self.size_bytes else 0
        self.view = _view(self._address, self.size_bytes) if self.size_bytes else memoryview(b"")
        self._hints = _read_ahead_bytes(state.st_dev) < _AMPLE_READ_AHEAD_BYTES
        self._probe: int | None = None

    def populate(self, start: int, stop: int) -> None:
        """Have the bytes [start, stop) in memory and mapped. Blocks on the disk; releases the GIL.

        Raises:
            OSError: the file cannot be read there (EIO: a bad disk, or it was truncated). Nothing was touched: no SIGBUS.
        """
        if stop <= start:
            return
        if self._hints and not self.is_resident(start):
            for offset in range(start, stop, _HINT_BYTES):
                os.posix_fadvise(self._fd, offset, min(_HINT_BYTES, stop - offset), os.POSIX_FADV_WILLNEED)
        low = start - start % _PAGE
        while _libc.madvise(self._address + low, stop - low, _MADV_POPULATE_READ):
            code = ctypes.get_errno()
            if code == errno.EINVAL:
                return
            if code not in (errno.EINTR, errno.EAGAIN):
                raise OSError(errno.EIO, f"bytes {start}-{stop} cannot be read ({os.strerror(code)})", self.path)

    def touch(self, start: int, stop: int) -> None:
        """`populate`, then read a byte of each page. Raises: OSError, as `populate`.

        In a virtual machine the first access to a page that the disk filled is a fault in the hypervisor, 0.3 s/GB here; done by
        the thread that waited for the disk it overlaps with the next window's wait.
        """
        self.populate(start, stop)
        bytes(self.view[start:stop:_PAGE])

    def is_resident(self, offset: int) -> bool:
        """Whether the page at `offset` is in the page cache.

        By RWF_NOWAIT on a descriptor set to FADV_RANDOM: mincore and cachestat lie to other users than the owner. Where the file
        system cannot tell, no.
        """
        if self._probe is None:
            # own open file description: FADV_RANDOM would switch off the mapping's read-ahead too
            self._probe = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._probe)
            os.posix_fadvise(self._probe, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            return os.preadv(self._probe, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            return False


def _map(fd: int, size: int, path: str) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_NORESERVE, fd, 0)
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(address)


def _view(address: int, size: int) -> memoryview:
    whole = (ctypes.c_char * size).from_address(address)
    # not at exit: threads that outlive the interpreter's finalizers may still read a tensor
    weakref.finalize(whole, _libc.munmap, address, size).atexit = False
    return memoryview(whole).cast("B")


def _read_ahead_bytes(device: int) -> int:
    """Of the disk under a file; Linux' default where /sys does not say (overlay, network, containers without /sys)."""
    link = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in ("queue", "../queue"):
        try:
            with open(f"{link}/{queue}/read_ahead_kb", "rb") as source:
                return int(source.read()) * 1024
        except (OSError, ValueError):
            continue
    return _HINT_BYTES
