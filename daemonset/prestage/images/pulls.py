"""Whether somebody pulls the image just now. We never store its manifest, so whoever has put it there pulls, or has pulled.

    image record of its index (its manifest, where it has none)       it has ended: its layers are taken over
    that is in the content store, without a record                    a pull runs, or was broken off
    a manifest without a record, part of an index that has one        that image was pulled, not ours

An image's index is asked for and not the manifest below it, which other indexes may list. What a broken-off pull left goes with
the garbage collector, which is asked to run while we wait: a running pull has a lease. So has for a day one that containerd was
killed in: where nothing moves any more nobody is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from prestage.images.containerd.content import Ingest
from prestage.images.image import Image
from prestage.images.names import OciDigest
from prestage.images.runtime import Containerd
from prestage.images.use import children

LOOK_S = 0.5
"""A call of a millisecond; a pull shows itself 50-70 ms after it was asked for."""
COLLECT_EVERY_S = 30.0
STILL_S = 300.0
"""Without a byte to any blob: a large layer may be unpacked for so long. To stage beside a pull costs both some time, no more."""


async def is_pulling(containerd: Containerd, roots: Sequence[OciDigest]) -> bool:
    """Now."""
    top = roots[0]
    if await containerd.content.info(top) is None or await containerd.images.of([top]):
        return False
    return len(roots) > 1 or not await _is_part(containerd, top)


async def until_pulled(containerd: Containerd, image: Image) -> bool:
    """Wait for the end of the pull, good or bad. False: nothing of it moves, it has been broken off and nobody has cleared it
    away."""
    collected = moved = time.monotonic()
    ingests: frozenset[Ingest] = frozenset()  # containerd lists them in any order
    while await is_pulling(containerd, image.roots):
        await asyncio.sleep(LOOK_S)
        now, seen = time.monotonic(), await _under_way(containerd, image)
        if seen != ingests:
            ingests, moved = seen, now
        elif now - moved > STILL_S:
            return False
        if now - collected > COLLECT_EVERY_S:
            await containerd.leases.collect()
            collected = now
    return True


async def _under_way(containerd: Containerd, image: Image) -> frozenset[Ingest]:
    """What is being written of it: others are pulled at any time."""
    parts = {*image.roots, image.config.digest, *(blob.digest for blob in image.blobs)}
    return frozenset(one for one in await containerd.content.ingests() if one.ref.partition("-")[2] in parts)


async def _is_part(containerd: Containerd, manifest: OciDigest) -> bool:
    """Of an image that was pulled."""
    records = await containerd.images.records()
    for target in {record.target for record in records.by_name.values()}:
        info = await containerd.content.info(target)
        if info is not None and manifest in children(info.labels):
            return True
    return False
