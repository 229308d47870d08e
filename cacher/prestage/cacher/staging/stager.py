"""Who asks for a stage: several callers of one artifact are one run, and each hears of it in his own thread.

A caller who leaves (cancelled, interrupted, his watcher raised) takes nobody with him: the run ends early only when the last one
has left. The most urgent caller's priority is the run's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, NotFound, Unavailable
from prestage.cacher.manifest import Manifest
from prestage.cacher.net.ports import Client
from prestage.cacher.origins.ports import Origin, Reaching
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.staging.claims import Claims
from prestage.cacher.staging.run import Run, Tools
from prestage.cacher.staging.wishes import Staged, Watcher, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import Cancelled, Changed
from prestage.cacher.transfer.threads import start

_CANCEL_LOOK_S = 0.2
_EVENTS_MAX = 1000
"""What one caller may be behind, in events other than progress: beyond that the oldest are dropped."""


class Stager:
    """Stages into one store with one engine. Thread-safe. `client` sends what a call brings no client of its own for."""

    def __init__(self, store: Store, engine: Engine, client: Client) -> None:
        self._tools = Tools(store, engine, client, Claims())
        self._running: dict[ArtifactId, _Shared] = {}
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """Which moves its bytes."""
        return self._tools.engine

    def stage(
        self,
        wish: Wish,
        origin: Origin,
        watcher: Watcher | None = None,
        cancel: threading.Event | None = None,
        *,
        client: Client | None = None,
    ) -> Staged:
        """Make the store hold what `wish` names; blocks. What was fetched before a failure is kept for the next call.

        `client` is the one that `origin` was opened with, hence of the policy under which `wish` came: what the origin points
        to is fetched under it too. Give `cancel` to `open_origin` as well, then it ends a resolve just as it ends a transfer.

        Raises:
            Cancelled: `cancel` was set.
            PrestageError: as its class says; nothing wrong and nothing partial was published.
        """
        began = time.monotonic()
        watcher, cancel = watcher or Watcher(), cancel or threading.Event()
        own = origin.client if isinstance(origin, Reaching) else self._tools.client
        reach = _Reach(origin, client or own)
        try:
            return self._once(wish, reach, watcher, cancel, began)
        except Changed as first:
            watcher.trouble(f"{first}: starting over with the new version")
        try:
            return self._once(wish, reach, watcher, cancel, began)
        except Changed as second:
            raise Unavailable(
                f"{wish.ref.name} changed twice while it was fetched: {second}", hint="stage it once its owner is done uploading"
            ) from second

    def urge(self, artifact: ArtifactId, priority: Priority) -> None:
        """Make the run of `artifact`, if there is one, at least so urgent."""
        with self._lock:
            shared = self._running.get(artifact)
        if shared is not None:
            shared.urge(priority)

    def _once(self, wish: Wish, reach: _Reach, watcher: Watcher, cancel: threading.Event, began: float) -> Staged:
        manifest = self._resolved(wish, reach.origin)
        if cancel.is_set():
            raise Cancelled
        caller = _Caller(wish)
        shared = self._join(manifest, reach, caller, cancel)
        try:
            staged = caller.wait(shared, watcher, cancel)
        finally:
            shared.leave(caller)
        return replace(staged, seconds=time.monotonic() - began)

    def _resolved(self, wish: Wish, origin: Origin) -> Manifest:
        if isinstance(wish.ref, ArtifactRef):  # its manifest cannot change: known once is known for ever
            with suppress(NotFound, Corrupt):
                return self._tools.store.manifest(wish.ref.artifact)
        manifest = origin.resolve(wish.selection)
        if wish.ref.pin is not None and manifest.artifact != wish.ref.pin:
            raise NotFound(
                f"{wish.ref.name} is {manifest.artifact} now, not the pinned {wish.ref.pin}",
                hint="the origin has another version; drop the pin to take it",
            )
        return manifest

    def _join(self, manifest: Manifest, reach: _Reach, caller: _Caller, cancel: threading.Event) -> _Shared:
        """The run of this artifact, begun if there is none; one that is ending early is waited for first."""
        while True:
            with self._lock:
                shared = self._running.get(manifest.artifact)
                if shared is None:
                    tools = replace(self._tools, client=reach.client)
                    shared = _Shared(tools, manifest, reach.origin, caller, self._forget)
                    start(shared.thread)
                    self._running[manifest.artifact] = shared
                    return shared
                if shared.join(caller):
                    return shared
            if shared.ended.wait(_CANCEL_LOOK_S):
                self._forget(shared)
            if cancel.is_set():
                raise Cancelled

    def _forget(self, shared: _Shared) -> None:
        with self._lock:
            if self._running.get(shared.artifact) is shared:
                del self._running[shared.artifact]


@dataclass(frozen=True, slots=True)
class _Reach:
    """Where a wish's bytes come from, and who sends for them."""

    origin: Origin
    client: Client


@dataclass(slots=True, eq=False)
class _Caller:
    """One who waits; what the run says is kept until his own thread passes it on."""

    wish: Wish
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _events: deque[Callable[[Watcher], None]] = field(default_factory=lambda: deque(maxlen=_EVENTS_MAX))
    _progress: Progress | None = None
    """Only the newest."""

    def tell(self, event: Callable[[Watcher], None]) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def tell_progress(self, progress: Progress) -> None:
        with self._changed:
            self._progress = progress
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, shared: _Shared, watcher: Watcher, cancel: threading.Event) -> Staged:
        while True:
            with self._changed:
                if not (self._events or self._progress or shared.ended.is_set()):
                    self._changed.wait(_CANCEL_LOOK_S)
                has_ended = shared.ended.is_set()
                events, progress = list(self._events), self._progress
                self._events.clear()
                self._progress = None
            for event in events:
                event(watcher)
            if progress is not None:
                watcher.progress(progress)
            if has_ended:
                return shared.outcome()
            if cancel.is_set():
                raise Cancelled


class _Shared(Watcher):
    """One run and those who wait for it."""

    def __init__(
        self, tools: Tools, manifest: Manifest, origin: Origin, first: _Caller, on_end: Callable[[_Shared], None]
    ) -> None:
        self.artifact = manifest.artifact
        self.ended = threading.Event()
        self._abandoned = threading.Event()
        self._is_over = False
        """Too late to join: the refs of those who have are being remembered."""
        self._store = tools.store
        self._run = Run(tools, manifest, origin, self, self._abandoned, first.wish.priority)
        self._callers = [first]
        self._wished = [first.wish]
        """Also by those who have left: once it is whole, it is known by what they called it."""
        self._said: list[Callable[[Watcher], None]] = []
        """What a caller who joins later must hear first."""
        self._on_end = on_end
        self._lock = threading.Lock()
        self._staged: Staged | None = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name="prestage-stage", daemon=True)

    def _work(self) -> None:
        try:
            with self._store.room.staging(self.artifact):
                staged = self._run.stage()
                for wish in self._wishes():
                    if not isinstance(wish.ref, ArtifactRef):
                        self._store.record_ref(wish.ref.name, wish.selection, self.artifact)
            self._staged = staged
        except BaseException as exc:  # noqa: BLE001 - the edge of a thread: every caller gets it
            self._error = exc
        self._on_end(self)
        self.ended.set()
        for caller in self._present():
            caller.wake()

    def _wishes(self) -> list[Wish]:
        with self._lock:
            self._is_over = True
            return list(self._wished)

    def outcome(self) -> Staged:
        """What came of it, once it has ended."""
        self.thread.join()
        if self._error is not None:
            raise self._error
        assert self._staged is not None
        return self._staged

    def join(self, caller: _Caller) -> bool:
        """One more; False when it is too late."""
        with self._lock:
            if self._is_over or self._abandoned.is_set() or self.ended.is_set():
                return False
            self._callers.append(caller)
            if caller.wish not in self._wished:
                self._wished.append(caller.wish)
            for event in self._said:
                caller.tell(event)
        self._run.urge(caller.wish.priority)
        return True

    def urge(self, priority: Priority) -> None:
        """At least so urgent."""
        self._run.urge(priority)

    def leave(self, caller: _Caller) -> None:
        """One less. The last one ends the run and waits until it has ended, what it fetched journaled."""
        with self._lock:
            self._callers.remove(caller)
            is_last = not self._callers
            if is_last:
                self._abandoned.set()
        if is_last:
            self.thread.join()

    def _present(self) -> list[_Caller]:
        with self._lock:
            return list(self._callers)

    def _tell(self, event: Callable[[Watcher], None], *, keep: bool = False) -> None:
        with self._lock:
            if keep:
                self._said.append(event)
            for caller in self._callers:
                caller.tell(event)

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """See Watcher."""
        self._tell(lambda watcher: watcher.resolved(manifest, missing_bytes), keep=True)

    def progress(self, progress: Progress) -> None:
        """See Watcher."""
        for caller in self._present():
            caller.tell_progress(progress)

    def verifying(self) -> None:
        """See Watcher."""
        self._tell(lambda watcher: watcher.verifying())

    def trouble(self, why: str) -> None:
        """See Watcher."""
        self._tell(lambda watcher: watcher.trouble(why))
