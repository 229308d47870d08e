"""Page-aligned buffers that live as long as the engine: the bound on its memory, and what O_DIRECT asks for."""

from __future__ import annotations

import mmap

from prestage.cacher.errors import Unavailable


def aligned_buffer(size_bytes: int) -> memoryview:
    """Anonymous, page-aligned, zeroed memory; the view keeps it alive. A page of slack behind it may be read.

    Raises:
        Unavailable: the system gives none.
    """
    try:
        return memoryview(mmap.mmap(-1, size_bytes + mmap.PAGESIZE))[:size_bytes]
    except OSError as exc:
        raise Unavailable(f"the system gives no memory: {exc.strerror}", hint="raise the limit of memory") from exc
