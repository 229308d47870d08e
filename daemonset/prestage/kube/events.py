"""Events: what people see under `kubectl describe`. Best effort: late or dropped before anything waits for one.

The same about the same object becomes a series, as the Events API has it; an object that says too much is slowed down. What
is sent is decided by `Book` (pure). Of what waits, a newer word about the same takes the place of the older (`Said.topic`): a
slow API server gets fewer events, not old ones.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from prestage.cacher.errors import PrestageError
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, Object, Resource, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import EVENTS

_log = logging.getLogger(__name__)
_NOTE_MAX = 1024
"""What the Events API takes, in bytes."""


class EventType(StrEnum):
    """Kubernetes' two."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    resource: Resource
    name: str
    namespace: str | None
    uid: str
    version: str = ""

    @classmethod
    def of(cls, resource: Resource, seen: Object) -> Subject:
        """Of an object that was read."""
        return cls(resource, name_of(seen), namespace_of(seen), uid_of(seen), version_of(seen))


@dataclass(frozen=True, slots=True)
class Said:
    """One event. `reason` and `action`: one CamelCase word each, for programs; `note`: for people. `topic`: what it is news of;
    of two about one object and topic that wait to be sent only the newer is. Empty: it stands for itself."""

    subject: Subject
    reason: str
    note: str
    action: str
    type: EventType = EventType.NORMAL
    topic: str = ""


class Verdict(StrEnum):
    """CREATE an event, bring its SERIES up to date, or say nothing (now)."""

    CREATE = "create"
    SERIES = "series"
    NOTHING = "nothing"


@dataclass(slots=True)
class _Entry:
    name: str
    count: int
    sent_s: float


@dataclass(slots=True)
class Book:
    """What was said lately. `series_s`: a series is sent no more often than that; `quiet_s`: after that it begins anew."""

    series_s: float = 30.0
    quiet_s: float = 360.0
    burst: int = 10
    refill_s: float = 30.0
    entries_max: int = 4096
    _entries: OrderedDict[tuple[str, str, str, str], _Entry] = field(default_factory=OrderedDict)
    _tokens: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def decide(self, said: Said, now_s: float) -> tuple[Verdict, str, int]:
        """Also the event's name and how often it was said."""
        key = (said.subject.uid or said.subject.name, said.type, said.reason, said.note)
        entry = self._entries.get(key)
        if entry is not None and now_s - entry.sent_s < self.quiet_s:
            self._entries.move_to_end(key)
            entry.count += 1
            if now_s - entry.sent_s < self.series_s:
                return Verdict.NOTHING, entry.name, entry.count
            entry.sent_s = now_s
            return Verdict.SERIES, entry.name, entry.count
        if not self._spend(key[0], now_s):
            return Verdict.NOTHING, "", 0
        name = event_name(said, now_s)
        self._entries[key] = _Entry(name, 1, now_s)
        while len(self._entries) > self.entries_max:
            self._entries.popitem(last=False)
        return Verdict.CREATE, name, 1

    def _spend(self, who: str, now_s: float) -> bool:
        """A token bucket for each object."""
        left, since_s = self._tokens.pop(who, (float(self.burst), now_s))
        left = min(float(self.burst), left + (now_s - since_s) / self.refill_s)
        spent = left >= 1.0
        self._tokens[who] = (left - 1.0 if spent else left, now_s)
        while len(self._tokens) > self.entries_max:
            self._tokens.popitem(last=False)
        return spent


def event_name(said: Said, now_s: float) -> str:
    """Unique for the object, what was said and when; at most 253 characters."""
    tail = hashlib.sha256(f"{said.subject.uid}\0{said.type}\0{said.reason}\0{said.note}\0{now_s!r}".encode()).hexdigest()[:16]
    return f"{said.subject.name[:236]}.{tail}"


def event_body(said: Said, name: str, *, controller: str, instance: str, now: datetime.datetime) -> Object:
    """As events.k8s.io/v1 takes it. About an object of the cluster: in `default`, as everybody does."""
    subject = said.subject
    regarding = {"apiVersion": subject.resource.group_version, "kind": subject.resource.kind, "name": subject.name}
    more = {"namespace": subject.namespace, "uid": subject.uid, "resourceVersion": subject.version}
    return {
        "apiVersion": EVENTS.group_version,
        "kind": EVENTS.kind,
        "metadata": {"name": name, "namespace": subject.namespace or "default"},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": controller,
        "reportingInstance": instance[:128],
        "action": said.action,
        "reason": said.reason,
        "regarding": {**regarding, **{key: value for key, value in more.items() if value}},
        "note": said.note.encode()[:_NOTE_MAX].decode(errors="ignore"),
        "type": str(said.type),
    }


class Recorder:
    """`say` never waits; `run` sends, one after the other. `controller`: "prestage.dev/planner"; `instance`: the pod's name."""

    def __init__(
        self,
        api: Api,
        *,
        controller: str,
        instance: str,
        book: Book | None = None,
        queue_max: int = 4000,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._api, self._controller, self._instance, self._now = api, controller, instance, now
        self._book, self._queue_max = book or Book(), queue_max
        self._waiting: OrderedDict[tuple[str, str], Said] = OrderedDict()
        self._numbers = itertools.count()
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self.dropped = 0
        """Not sent: too much waited, or the API server did not take it."""

    def say(self, said: Said) -> None:
        """Take it for sending; where too much waits it is dropped."""
        key = (said.subject.uid or said.subject.name, f"/{said.topic}" if said.topic else str(next(self._numbers)))
        if key not in self._waiting and len(self._waiting) >= self._queue_max:
            self.dropped += 1
            return
        self._waiting[key] = said
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Send, for ever. One that fails is logged and dropped."""
        while True:
            await self._news.wait()
            while self._waiting:
                _, said = self._waiting.popitem(last=False)
                await self._send(said)
            self._news.clear()
            self._idle.set()

    async def drained(self) -> None:
        """Until all that was said is sent or dropped."""
        await self._idle.wait()

    async def _send(self, said: Said) -> None:
        verdict, name, count = self._book.decide(said, asyncio.get_running_loop().time())
        try:
            if verdict is Verdict.CREATE:
                await self._create(said, name)
            elif verdict is Verdict.SERIES:
                await self._series(said, name, count)
        except PrestageError as exc:
            self.dropped += 1
            _log.warning("event_failed", extra={"fields": {"reason": said.reason, "error": str(exc)}})

    async def _create(self, said: Said, name: str) -> None:
        body = event_body(said, name, controller=self._controller, instance=self._instance, now=self._now())
        await self._api.create(EVENTS, body)

    async def _series(self, said: Said, name: str, count: int) -> None:
        moment = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        series = {"series": {"count": count, "lastObservedTime": moment}}
        try:
            await self._api.patch(EVENTS, name, series, namespace=said.subject.namespace or "default")
        except Missing:  # an hour is all that an event lives
            await self._create(said, name)
