"""The decision log of planners: one ConfigMap beside them, `prestage-decisions`, which `kubectl prestage why` reads.

    binaryData.log    zlib of JSON lines, one Decision each, oldest first; what cannot be read is passed over

One object, for it names every namespace's workloads: who may read our own namespace's ConfigMaps may read it, and no tenant. It
is written as a whole, so that there are no torn records, at most every EVERY_S, and only where something was decided. What was
decided after the last write is lost with a planner that is killed; what nodes were told is in their NodeCaches all the same.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.together import Together
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object
from prestage.kube.resources import CONFIG_MAPS
from prestage.planner.changes import Changes
from prestage.planner.decisions import DECISIONS_MAX, Decided, Decision, Decisions

NAME: Final = "prestage-decisions"
BYTES_MAX: Final = 256 << 10
"""Compressed; a ConfigMap may have a MiB."""
TEXT_BYTES_MAX: Final = 8 << 20
"""Unpacked: what claims to be more was not written by us."""
EVERY_S: Final = 30.0
SOON_S: Final = 2.0
"""After the first decision that is not written yet: more may follow."""
PAUSE_S: Final = 0.5
"""Between two looks: plans of a burst are looked at together, for the loop is needed by what is urgent."""
_KEY: Final = "log"
_DECODER = msgspec.json.Decoder(Decision)


def packed(decisions: Decisions) -> bytes:
    """As it is written. Forgets the older half as often as it takes."""
    while True:
        data = zlib.compress(b"\n".join(map(msgspec.json.encode, decisions)), 6)
        if len(data) <= BYTES_MAX:
            return data
        decisions.halve()


def unpacked(data: bytes) -> list[Decision]:
    """What of it can be read."""
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(data, TEXT_BYTES_MAX)
    except zlib.error:
        return []
    found = list[Decision]()
    for line in text.rsplit(b"\n", 2 * DECISIONS_MAX):
        try:
            found.append(_DECODER.decode(line))
        except (msgspec.DecodeError, RecursionError):
            continue
    return found


def decisions_in(seen: Object) -> list[Decision]:
    """Of the ConfigMap."""
    data = seen.get("binaryData")
    text = data.get(_KEY) if isinstance(data, Mapping) else None
    try:
        return unpacked(base64.b64decode(text, validate=True)) if isinstance(text, str) else []
    except (binascii.Error, ValueError):
        return []


def joined(theirs: Iterable[Decision], ours: Iterable[Decision]) -> Decisions:
    """What another planner wrote, then what of ours is not in it."""
    known = dict.fromkeys(theirs)
    return Decisions([*known, *(one for one in ours if one not in known)])


def changes_after(decisions: Iterable[Decision]) -> Changes:
    """For a planner that goes on after these."""
    warm, awaited = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for one in decisions:
        for node in one.nodes:
            if one.what is Decided.WARM:
                warm[node].add(one.artifact)
                awaited[node].discard(one.artifact)
            elif one.what is Decided.STAGE and one.artifact not in warm[node]:
                awaited[node].add(one.artifact)
            elif one.what is Decided.GONE and one.artifact:
                warm[node].discard(one.artifact)
            elif one.what is Decided.GONE:
                warm[node].clear()
    return Changes(dict(warm), dict(awaited))


_Late = tuple[str, str, str, str]


def _late(one: Decision) -> _Late:
    return one.artifact, one.namespace, one.by, one.because


def late_in(decisions: Iterable[Decision]) -> set[_Late]:
    """What is known to be late, and nothing befell it since: a planner that begins anew need not say it again."""
    found: dict[str, dict[tuple[str, str], _Late]] = {}
    for one in decisions:
        if one.what is Decided.LATE:
            found.setdefault(one.artifact, {})[one.namespace, one.by] = _late(one)
        elif one.what in (Decided.WARM, Decided.GONE):
            found.pop(one.artifact, None)
    return {late for of in found.values() for late in of.values()}


async def recording(together: Together) -> None:
    """As a service of the planner's leader."""
    await Recording(together.api, together.board, together.namespace).run()


@dataclass(slots=True)
class Recording:
    """`run` while leading. What it knows is on the board."""

    api: Api
    board: Board
    namespace: str
    now: Callable[[], float] = time.time
    every_s: float = EVERY_S
    soon_s: float = SOON_S
    pause_s: float = PAUSE_S
    _changes: Changes = field(default_factory=Changes)
    _there: Object | None = None
    _unsaved: int = 0
    _is_first: bool = True

    async def run(self) -> None:
        """Never returns. A log that cannot be read or written holds up no plan."""
        posted = self.board.reader()
        await self._load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            while True:
                await posted.wait()
                posted.clear()
                if (last := self.board.last) is not None:
                    self.look(last)
                await asyncio.sleep(self.pause_s)

    def look(self, posted: Posted) -> None:
        """Write down what is new."""
        said = late_in(self.board.decisions) if self._is_first else set[_Late]()
        demands = posted.collected.demands
        for one in self._changes.look(demands, posted.nodes, posted.plan, self.now(), _teller(posted)):
            if one.what is not Decided.LATE or _late(one) not in said:
                self.add(one)
        self._is_first = False

    def add(self, decision: Decision) -> None:
        """It is written in a moment."""
        self.board.decisions.add(decision)
        self._unsaved += 1

    async def _load(self) -> None:
        try:
            self._there = await self.api.get(CONFIG_MAPS, NAME, namespace=self.namespace)
        except Missing:
            return
        except PrestageError as exc:
            log("decisions_not_read", level=logging.WARNING, fields={"message": exc.message})
            return
        self.board.decisions = joined(decisions_in(self._there), self.board.decisions)
        self._changes = changes_after(self.board.decisions)

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(self.soon_s)
            if not self._unsaved:
                continue
            unsaved = self._unsaved
            try:
                await self._send()
                self._unsaved -= unsaved
            except PrestageError as exc:
                self._there = None  # whoever wrote meanwhile, the planner before us: what it knew is kept beside what we know
                if not isinstance(exc, Conflict):
                    log("decisions_not_written", level=logging.WARNING, fields={"message": exc.message})
                    await asyncio.sleep(max(0.0, self.every_s - self.soon_s))
                continue
            await asyncio.sleep(max(0.0, self.every_s - self.soon_s))

    async def _send(self) -> None:
        head = {"name": NAME, "namespace": self.namespace}
        if self._there is None:
            try:
                self._there = await self.api.get(CONFIG_MAPS, NAME, namespace=self.namespace)
            except Missing:
                self._there = await self.api.create(CONFIG_MAPS, {"metadata": head, **_body(self.board.decisions)})
                return
            self.board.decisions = joined(decisions_in(self._there), self.board.decisions)
        self._there = await self.api.replace(CONFIG_MAPS, {**self._there, **_body(self.board.decisions)})


def _body(decisions: Decisions) -> Object:
    return {"binaryData": {_KEY: base64.b64encode(packed(decisions)).decode()}}


def _teller(posted: Posted) -> Callable[[str], str]:
    collected = posted.collected

    def teller(demand: str) -> str:
        due = collected.dues.get(demand)
        if due is not None:
            return f"{due.declaration.subject.resource.kind}/{due.declaration.subject.name}"
        line = collected.lines.get(demand)
        subject = collected.subjects.get(line.uid) if line is not None else None
        return f"{subject.resource.kind}/{subject.name}" if subject is not None else ""

    return teller
