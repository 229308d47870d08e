"""Work whose end is waited for whatever happens to who began it: what it holds, a file or a connection, is not free before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def to_its_end(work: Awaitable[_T]) -> _T:
    """Also when the caller is cancelled meanwhile, however often: then nobody is told what came of it."""
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not running.cancelled():
            running.exception()
        raise cancelled
    return running.result()


async def cancellable(work: Awaitable[_T]) -> _T:
    """In a task of its own, which ends, and is waited for, when the caller is cancelled.

    For groups of tasks: one that ends for an error of its own loses a cancel that comes meanwhile (until Python 3.13).
    """
    running = asyncio.ensure_future(work)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        running.cancel()
        try:
            await to_its_end(asyncio.wait([running]))
        finally:
            if not running.cancelled():
                running.exception()
        raise
    return running.result()
