"""List, then watch, for ever: changes of a selection from the API server, each once.

    list (pages of 500) ─▶ watch since the list ─▶ cut, 5xx, server's end: watch again since the last event or bookmark
            ▲                                          │ 410: that is forgotten
            └──────────────────────────────────────────┘

What follows a failure is decided by `after` (pure); progress resets the backoff. Nothing that a restart of the API server, a
cut connection or a compaction does is lost or said twice: see mirror.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from prestage.cacher.errors import Denied, Misconfigured, NotFound, Unavailable
from prestage.kube.answers import Backoff
from prestage.kube.errors import Gone
from prestage.kube.mirror import Change, Mirror, without_managed_fields
from prestage.kube.ports import EVERYTHING, Api, Object, Resource, ResourceVersion, Selection, version_of

_log = logging.getLogger(__name__)
PAGE = 500
"""Objects a page: what client-go asks for."""
_EXPIRED_LISTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How it waits."""

    backoff: Backoff = field(default_factory=Backoff)
    watch_s: tuple[float, float] = (300.0, 600.0)
    """A watch lasts a random time between these: a fleet does not come back at once."""


@dataclass(frozen=True, slots=True)
class Next:
    """What follows the end of a watch: from where (None: list again), and after how long."""

    since: ResourceVersion | None
    delay_s: float


def after(failure: Exception | None, *, since: ResourceVersion, fruitless: int, draw: float, backoff: Backoff) -> Next:
    """`failure`: None where the server ended the watch in order. `fruitless`: attempts in a row without any event, lists between
    them or not."""
    if isinstance(failure, Gone):
        return Next(None, backoff.delay_s(fruitless, draw) if fruitless > 1 else 0.0)
    if failure is None and fruitless <= 1:
        return Next(since, 0.0)
    return Next(since, backoff.delay_s(fruitless, draw))


class Follower:
    """A selection of a resource. `mirror` is the copy: whole after the first Synced, current from then on."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        selection: Selection = EVERYTHING,
        *,
        keep: Callable[[Object], Object] = without_managed_fields,
        pace: Pace | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.mirror = Mirror(keep)
        self._api, self._resource, self._selection = api, resource, selection
        self._pace = pace or Pace()
        self._draw = draw
        self.lists = 0
        """How often the whole was listed."""
        self.fruitless = 0
        """Attempts in a row that brought nothing: the copy may be old."""

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Never ends by itself: close it (`aclosing`), which ends its request.

        Unavailable is waited out; so are Denied, NotFound (no such kind) and Misconfigured, logged as errors: RBAC and CRDs may
        come later.
        """
        since: ResourceVersion | None = None
        forgotten = 0
        while True:
            if since is None:
                since, changes = await self._listed()
                for change in changes:
                    yield change
            failure: Exception | None = None
            heard = False
            watch = self._api.watch(self._resource, self._selection, since, lasting_s=self._lasting_s())
            try:
                async with aclosing(watch) as events:
                    async for event in events:
                        heard, self.fruitless, forgotten = True, 0, 0
                        since = version_of(event.object) or since
                        for change in self.mirror.take(event):
                            yield change
            except (Unavailable, Denied, NotFound, Misconfigured) as exc:
                failure = exc
            self.fruitless = 0 if heard and failure is None else self.fruitless + 1
            forgotten += isinstance(failure, Gone)  # the list that follows is no progress by itself
            fruitless = forgotten if isinstance(failure, Gone) else self.fruitless
            following = after(failure, since=since, fruitless=fruitless, draw=self._draw(), backoff=self._pace.backoff)
            self._report(failure)
            since = following.since
            await asyncio.sleep(following.delay_s)

    async def _listed(self) -> tuple[ResourceVersion, list[Change]]:
        while True:
            try:
                version, items = await self._list_once()
            except (Unavailable, Denied, NotFound, Misconfigured) as exc:
                self.fruitless += 1
                self._report(exc)
                await asyncio.sleep(self._pace.backoff.delay_s(self.fruitless, self._draw()))
                continue
            self.fruitless = 0
            self.lists += 1
            return version, self.mirror.replace(items)

    async def _list_once(self) -> tuple[ResourceVersion, list[Object]]:
        """Page by page; a list that a compaction cuts is begun again, the last time as a whole."""
        for attempt in range(_EXPIRED_LISTS_MAX + 1):
            limit = PAGE if attempt < _EXPIRED_LISTS_MAX else None
            items: list[Object] = []
            rest: str | None = None
            try:
                while True:
                    page = await self._api.page(self._resource, self._selection, limit=limit, rest=rest)
                    items += page.items
                    rest = page.rest
                    if rest is None:
                        return page.resource_version, items
            except Gone:
                if limit is None:
                    raise
        raise Gone(f"{self._resource.plural}: every list was cut by a compaction")

    def _lasting_s(self) -> float:
        least, most = self._pace.watch_s
        return least + self._draw() * (most - least)

    def _report(self, failure: Exception | None) -> None:
        if failure is None or isinstance(failure, Gone):
            return
        level = logging.WARNING if isinstance(failure, Unavailable) else logging.ERROR
        if self.fruitless in (1, 10) or self.fruitless % 100 == 0:
            said = {"resource": self._resource.plural, "attempts": self.fruitless, "error": str(failure)}
            _log.log(level, "watch_failed", extra={"fields": said})
