"""Daily: may each namespace still read what it had resolved? By its own credentials, one source of an Artifact at a time.

    due          a day after it was proved last, sooner after a no or a look that told nothing (access.py)
    fair         each namespace has one look under way, who waited longest is next; `_AT_ONCE` in all
    replicas     a claim for each look, and the Artifact read again under it: one of them looks
    recorded     in `Artifact.status.access`, before anybody acts on it

A look that cannot be recorded is made again after a minute.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prestage.api.artifacts import AccessState, SourceAccess
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.access import AccessTerms, Finding, after, due_at
from prestage.control.broker.claims import Claims
from prestage.control.broker.counts import Counts
from prestage.control.broker.images import Images, is_image
from prestage.control.broker.proving import PROVED, finding_of, prove
from prestage.control.broker.reaching import Reach
from prestage.control.broker.records import Records
from prestage.control.broker.refusals import No
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Trace, named_as
from prestage.control.broker.view import View
from prestage.kube.ports import Api

_AT_ONCE: Final = 4
_LOOK_S: Final = 30.0
_AGAIN: Final = datetime.timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be proved."""

    holder: Kept
    trace: Trace
    due: datetime.datetime

    @property
    def source(self) -> str:
        """As it is recorded."""
        return named_as(self.trace)

    @property
    def key(self) -> tuple[str, str, str]:
        """Of this look among all."""
        return self.holder.namespace, self.holder.digest, self.source


def looks(held: Iterable[Kept], terms: AccessTerms) -> list[Look]:
    """Of all Artifacts. Pure."""
    found = list[Look]()
    for holder in held:
        rows = {row.source: row for row in holder.access}
        for trace in holder.traces:
            source = named_as(trace)
            key = f"{holder.namespace}/{holder.digest}/{source}"
            found.append(Look(holder, trace, due_at(rows[source], terms, key)))
    return found


def fair(due: Iterable[Look], busy: Iterable[str], served: dict[str, int], room: int) -> list[Look]:
    """The next ones: one of each namespace that is not busy, what is due longest; who was served longest ago first. Pure."""
    first: dict[str, Look] = {}
    for look in sorted(due, key=lambda one: one.due):
        first.setdefault(look.holder.namespace, look)
    free = [look for name, look in first.items() if name not in set(busy)]
    return sorted(free, key=lambda one: (served.get(one.holder.namespace, 0), one.due))[: max(0, room)]


class Rechecking:
    """`run` once the view has synced."""

    def __init__(
        self,
        view: View,
        claims: Claims,
        reach: Reach,
        counts: Counts,
        api: Api,
        *,
        terms: AccessTerms,
        images: Images | None = None,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._view, self._claims, self._reach, self._counts = view, claims, reach, counts
        self._images = images
        self._records, self._terms, self._clock = Records(api), terms, clock
        self._busy, self._served, self._turn = set[str](), dict[str, int](), 0
        self._not_before: dict[tuple[str, str, str], datetime.datetime] = {}
        self._hurried = set[tuple[str, str, str]]()
        self._news = asyncio.Event()

    def hurry(self, holder: Kept, row: SourceAccess) -> None:
        """A pod waits for what is revoked: looked at soon, but not at every question."""
        if self._clock() - row.checked_at >= self._terms.hurried:
            self._hurried.add((holder.namespace, holder.digest, row.source))
            self._news.set()

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                for look in self._next():
                    self._turn += 1
                    self._busy.add(look.holder.namespace)
                    self._served[look.holder.namespace] = self._turn
                    group.create_task(self._look(look), name="recheck")
                try:
                    async with asyncio.timeout(min(_LOOK_S, self._terms.confirm.total_seconds())):
                        await self._news.wait()
                except TimeoutError:
                    continue

    def _next(self) -> list[Look]:
        if len(self._busy) >= _AT_ONCE:
            return []
        now = self._clock()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        found = looks(self._view.shelf.all(), self._terms)
        due = [one for one in found if one.key in self._hurried or (one.due <= now and one.key not in self._not_before)]
        self._served = {name: turn for name, turn in self._served.items() if self._view.shelf.of(name)}
        return fair(due, self._busy, self._served, _AT_ONCE - len(self._busy))

    async def _look(self, look: Look) -> None:
        namespace, digest, source = look.key
        pause = _AGAIN
        try:
            async with self._claims.of("access", namespace, digest, source):
                await self._claimed(look)
            pause = self._terms.confirm  # until the mirror shows it
        except (No, PrestageError) as exc:
            fields = {"namespace": namespace, "artifact": digest, "why": type(exc).__name__}
            log("access-not-recorded", level=logging.WARNING, fields=fields)
        finally:
            self._not_before[look.key] = self._clock() + min(pause, self._terms.confirm)
            self._hurried.discard(look.key)
            self._busy.discard(namespace)
            self._news.set()

    async def _claimed(self, look: Look) -> None:
        namespace, digest, source = look.key
        fresh = await self._records.now(namespace, digest)
        before = next((row for row in fresh.access if row.source == source), None) if fresh is not None else None
        known = {row.source: row for row in look.holder.access}[source]
        if fresh is None or before is None or (before != known and before.checked_at > known.checked_at):
            return  # gone, or another replica looked meanwhile
        finding = await self._finding(fresh, look.trace)
        now = self._clock()
        await self._records.looked(namespace, digest, source, lambda row: after(row, finding, now, self._terms))
        self._counts.rechecked(str(finding.outcome))
        self._tell(look, before, after(before, finding, now, self._terms))

    async def _finding(self, holder: Kept, trace: Trace) -> Finding:
        cancel = threading.Event()
        try:
            _, manifest = await self._reach.manifest(holder.digest)
            if self._images is not None and is_image(trace):
                await self._images.prove(holder, trace, manifest)
                return PROVED
            opened = await self._reach.open(holder, trace, manifest, cancel)
            try:
                await self._reach.in_thread(lambda: prove(opened, manifest))
            finally:
                cancel.set()
                opened.close()
        except (No, PrestageError) as exc:
            return finding_of(exc)
        return PROVED

    def _tell(self, look: Look, before: SourceAccess, row: SourceAccess) -> None:
        """Log lines have no words of the namespace."""
        fields = {"namespace": look.holder.namespace, "artifact": look.holder.digest, "code": row.reason}
        was, is_ = (one.state is AccessState.REVOKED for one in (before, row))
        if was != is_:
            log("access-revoked" if is_ else "access-restored", level=logging.WARNING if is_ else logging.INFO, fields=fields)
