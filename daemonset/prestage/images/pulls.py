"""Whether somebody pulls the image just now. We never store its manifest, so whoever has put it there pulls, or has pulled.

    manifest or index in the content store, no image record of it     a pull runs, or was broken off
    image record                                                      it has ended: its layers are taken over

What a broken-off pull left goes with the garbage collector, which is asked to run while we wait: a running pull has a lease.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from prestage.images.names import OciDigest
from prestage.images.runtime import Containerd

LOOK_S = 0.5
"""A call of a millisecond; a pull shows itself 50-70 ms after it was asked for."""
COLLECT_EVERY_S = 30.0


async def is_pulling(containerd: Containerd, roots: Sequence[OciDigest]) -> bool:
    """Now."""
    infos = [await containerd.content.info(root) for root in roots]
    return any(info is not None for info in infos) and not await containerd.images.of(roots)


async def until_pulled(containerd: Containerd, roots: Sequence[OciDigest]) -> None:
    """Wait for the end of the pull, good or bad."""
    collected = time.monotonic()
    while await is_pulling(containerd, roots):
        await asyncio.sleep(LOOK_S)
        if time.monotonic() - collected > COLLECT_EVERY_S:
            await containerd.leases.collect()
            collected = time.monotonic()
