"""The C allocator's own hoard, bounded: glibc gives each new thread an arena of its own and hands little of it back.

An agent makes a thread for each stage. With up to 8 arenas a core and thresholds that grow by themselves its memory rises for
hours although no more of it is in use (docs/agent.md has the figures). Other allocators (musl's) do not do this.
"""

from __future__ import annotations

import ctypes

ARENAS = 2
"""Enough: threads allocate under the GIL, and no body byte comes from malloc."""
MMAP_BYTES = 64 << 10
"""Blocks of this size and above are mapped, hence given back when they are freed: buffers of the network are so large. To say it
also keeps glibc from raising both thresholds by itself, up to 32 MB (mallopt(3))."""
TRIM_BYTES = 128 << 10
"""An arena's free end larger than this is given back: glibc's own default."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""malloc.h."""


def bound_allocator() -> bool:
    """To be called before there are threads: an arena that is there stays. False: this is not glibc, or it refused."""
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version  # musl has a mallopt in some versions, and none of its meaning
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, MMAP_BYTES), (_M_TRIM_THRESHOLD, TRIM_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
