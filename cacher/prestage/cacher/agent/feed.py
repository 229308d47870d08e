"""Events from the threads that work to the tasks that tell: many readers, none of whom can make the others wait or grow.

A reader gets the newest progress only, and at most `BACKLOG` other events; what he was too slow for is dropped, oldest first.
Publishing is done on the loop: threads come by `publish_from_thread`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from prestage.cacher.staging.events import Event

BACKLOG = 256
LAST = ("done", "error")


class Subscription:
    """One reader's view of a feed. Close it."""

    def __init__(self, on_close: Callable[[Subscription], None]) -> None:
        self._events: deque[Event] = deque(maxlen=BACKLOG)
        self._progress: Event | None = None
        self._changed = asyncio.Event()
        self._on_close = on_close

    def put(self, event: Event) -> None:
        """Keep it until it is read."""
        if event["event"] == "progress":
            self._progress = event
        else:
            if event["event"] in LAST:
                self._progress = None
            self._events.append(event)
        self._changed.set()

    def take(self) -> list[Event]:
        """What has come since, in order; progress last."""
        events = list(self._events)
        self._events.clear()
        if self._progress is not None:
            events.append(self._progress)
            self._progress = None
        self._changed.clear()
        return events

    async def read(self, *, heartbeat_s: float) -> AsyncGenerator[Event]:
        """Events as they come, up to the last one; `{"event": "alive"}` when none came for `heartbeat_s`."""
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                yield {"event": "alive"}
                continue
            for event in self.take():
                yield event
                if event["event"] in LAST:
                    return

    def close(self) -> None:
        """Read no more. Idempotent."""
        self._on_close(self)


class Feed:
    """One source of events; what it said so far that a late reader must know is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: set[Subscription] = set()
        self._kept: dict[str, Event] = {}

    @property
    def readers(self) -> int:
        """How many listen."""
        return len(self._readers)

    def latest(self, kind: str) -> Event | None:
        """The newest event of that kind."""
        return self._kept.get(kind)

    def subscribe(self, on_close: Callable[[], None] = lambda: None) -> Subscription:
        """One more reader, told first what was said already: how it was resolved, how far it is, how it ended."""

        def closed(subscription: Subscription) -> None:
            if subscription in self._readers:
                self._readers.discard(subscription)
                on_close()

        subscription = Subscription(closed)
        for kind in ("resolved", "progress", "verifying", "paused", *LAST):
            if (event := self._kept.get(kind)) is not None:
                subscription.put(event)
        self._readers.add(subscription)
        return subscription

    def publish(self, event: Event) -> None:
        """Tell every reader."""
        self._kept[str(event["event"])] = event
        for reader in self._readers:
            reader.put(event)

    def publish_from_thread(self, event: Event) -> None:
        """The same, from any thread; without effect once the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self.publish, event)
        except RuntimeError:
            return

    def forget_progress(self) -> None:
        """A new try begins."""
        for kind in ("progress", "verifying", "paused", *LAST):
            self._kept.pop(kind, None)
