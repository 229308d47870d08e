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
import os
import stat
import weakref

from prestage.loader import pages, residency


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
        self._address = pages.map_file(self._fd, self.size_bytes, path) if self.size_bytes else 0
        self.view = _view(self._address, self.size_bytes) if self.size_bytes else memoryview(b"")
        self._hints = pages.needs_hints(state.st_dev)
        self._probe: int | None = None

    def populate(self, start: int, stop: int) -> None:
        """Have the bytes [start, stop) in memory and mapped. Blocks on the disk; releases the GIL.

        Raises:
            OSError: the file cannot be read there (EIO: a bad disk, or it was truncated). Nothing was touched: no SIGBUS.
        """
        if stop <= start:
            return
        if self._hints and not self.is_resident(start):
            pages.hint(self._fd, start, stop)
        low = start - start % pages.PAGE
        if code := pages.populate(self._address + low, stop - low):
            raise OSError(errno.EIO, f"bytes {start}-{stop} cannot be read ({os.strerror(code)})", self.path)

    def touch(self, start: int, stop: int) -> None:
        """`populate`, then read a byte of each page. Raises: OSError, as `populate`.

        In a virtual machine the first access to a page that the disk filled is a fault in the hypervisor, 0.3 s/GB here; done by
        the thread that waited for the disk it overlaps with the next window's wait.
        """
        self.populate(start, stop)
        bytes(self.view[start : stop : pages.PAGE])

    def is_resident(self, offset: int) -> bool:
        """Whether the page at `offset` is in the page cache. Where the file system cannot tell, no."""
        if self._probe is None:
            self._probe = residency.open_probe(self.path)
            weakref.finalize(self, os.close, self._probe)
        return bool(residency.is_resident(self._probe, offset))


def _view(address: int, size: int) -> memoryview:
    whole = (ctypes.c_char * size).from_address(address)
    # not at exit: threads that outlive the interpreter's finalizers may still read a tensor
    weakref.finalize(whole, pages.unmap, address, size).atexit = False
    return memoryview(whole).cast("B")
