"""How many may work at once, the most urgent first; those of waiting pods have room of their own."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from prestage.cacher.transfer.limits import Priority


class Slots:
    """A semaphore with priorities. One loop."""

    def __init__(self, most: int, *, most_waiting: int) -> None:
        self._most, self._most_waiting = most, most_waiting
        self._taken = 0
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def _is_free(self, priority: Priority) -> bool:
        return self._taken < self._most + (self._most_waiting if priority is Priority.WAITING_POD else 0)

    async def take(self, priority: Priority) -> None:
        """Wait for a slot; give it back."""
        if self._is_free(priority):
            self._taken += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (int(priority), next(self._numbers), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Let the next one in."""
        self._taken -= 1
        while self._queue and (self._queue[0][2].done() or self._is_free(Priority(self._queue[0][0]))):
            _, _, first = heapq.heappop(self._queue)
            if not first.done():
                self._taken += 1
                first.set_result(None)
