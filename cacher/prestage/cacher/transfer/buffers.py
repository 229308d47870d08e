"""Page-aligned buffers that live as long as the engine: the bound on its memory, and what O_DIRECT asks for."""

from __future__ import annotations

import mmap


def aligned_buffer(size_bytes: int) -> memoryview:
    """Anonymous, page-aligned, zeroed memory; the view keeps it alive. A page of slack behind it may be read."""
    return memoryview(mmap.mmap(-1, size_bytes + mmap.PAGESIZE))[:size_bytes]
