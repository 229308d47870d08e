"""Writing a blob that another client writes just now, or whose bytes do not come just now: waited for, without an open stream."""

from __future__ import annotations

import asyncio

from prestage.images.containerd.channel import Locked
from prestage.images.containerd.content import Bytes, Content, Starved, Writing, Written

LOCKED_S, LOCKED_MOST_S = 0.3, 600.0


async def write_at_last(content: Content, writing: Writing, source: Bytes) -> Written:
    """When the other client is done, the blob is there.

    Raises:
        Locked: it was not done in ten minutes.
        PrestageError: as `Content.write`.
    """
    waited = 0.0
    while True:
        try:
            return await content.write(writing, source)
        except Starved:
            await source.arrival()
        except Locked:
            if waited >= LOCKED_MOST_S:
                raise
            await asyncio.sleep(LOCKED_S)
            waited += LOCKED_S
