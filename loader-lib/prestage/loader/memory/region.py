"""One address range a file, in which each range of bytes is either the file's own pages or memory of ours.

    file      0 ──────────── 8 MiB ─────────── 16 MiB ─────────── 24 MiB ───── size
    region    │ mapped (page cache) │ private (huge pages) │ mapped            │      base + offset, base 2 MiB-aligned

So a file that is half in the page cache costs memory and a read for the other half only, and its tensors are contiguous all the
same. Both kinds are copy-on-write or private: a write never reaches the file.

Ownership: a piece given out by `lend` keeps the range alive. When it dies its whole pages are given back at once; the addresses
go with the last piece and the region itself.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

from prestage.loader import pages

Piece = ctypes.Array[ctypes.c_char]
"""Bytes that a framework can wrap: exports a writable buffer."""


class Region:
    """Addresses for one file. Thread-safe as far as callers fill and lend different ranges."""

    def __init__(self, size_bytes: int) -> None:
        """Reserve; nothing is taken until bytes arrive. Raises: OSError: no address space (ENOMEM)."""
        self.size_bytes = size_bytes
        rounded = max(-(-size_bytes // pages.PAGE) * pages.PAGE, pages.PAGE)
        self._taken = rounded + pages.HUGE
        self._first = pages.reserve(self._taken)
        self.base = -(-self._first // pages.HUGE) * pages.HUGE
        self.huge = pages.want_huge(self.base, rounded)
        whole = (ctypes.c_char * rounded).from_address(self.base)
        # not at exit: threads that outlive the interpreter's finalizers may still read a tensor
        weakref.finalize(whole, pages.unmap, self._first, self._taken).atexit = False
        self._whole = whole
        self.view = memoryview(whole).cast("B")
        """Whole pages: the last one may reach beyond the file."""

    def show_file(self, fd: int, start: int, stop: int, path: str) -> None:
        """Let [start, stop), `start` page-aligned, be the file's pages. Raises: OSError."""
        pages.map_file(fd, stop - start, path, at=self.base + start, offset=start)

    def hide_file(self, start: int, stop: int) -> None:
        """Undo `show_file` for whole pages: zeros again, to be filled. Raises: OSError."""
        rounded = -(-stop // pages.PAGE) * pages.PAGE
        pages.reserve(rounded - start, at=self.base + start)
        pages.want_huge(self.base + start, rounded - start)

    def drop(self, start: int, stop: int) -> None:
        """Give whole pages back; nobody was lent them."""
        pages.give_back(self.base + start, stop - start)

    def populate(self, start: int, stop: int) -> int:
        """`pages.populate` for [start, stop), `start` page-aligned."""
        return pages.populate(self.base + start, stop - start)

    def prefault(self, start: int, stop: int) -> bool:
        """`pages.prefault` for [start, stop), `start` page-aligned, which shows no file."""
        return pages.prefault(self.base + start, stop - start)

    def populating(self, start: int, stop: int) -> Callable[[], bool]:
        """`populate` for later, which does not keep the range alive until then: False, nothing done, where it is gone."""
        alive, address = weakref.ref(self._whole), self.base + start

        def populate() -> bool:
            whole = alive()  # held while its pages are entered
            return whole is not None and pages.populate(address, stop - start) == 0

        return populate

    def lend(self, start: int, stop: int, gone: Callable[[int, int], None] | None = None) -> Piece:
        """The bytes [start, stop), not empty. When they die their whole pages are given back, then `gone(start, stop)` is called
        on whatever thread that is."""
        piece = (ctypes.c_char * (stop - start)).from_address(self.base + start)
        weakref.finalize(piece, _returned, self._whole, self.base, start, stop, gone).atexit = False
        return piece


def _returned(_: Piece, base: int, start: int, stop: int, gone: Callable[[int, int], None] | None) -> None:
    """The first argument keeps the range alive as long as the piece."""
    low, high = -(-start // pages.PAGE) * pages.PAGE, stop // pages.PAGE * pages.PAGE
    if low < high:
        pages.give_back(base + low, high - low)
    if gone:
        gone(start, stop)
