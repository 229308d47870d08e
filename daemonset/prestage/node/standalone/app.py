"""The loop: read the file where it changed, resolve, ask the agent what it holds, decide, begin; until SIGTERM or SIGINT.

The store is the agent's (`prestage agent --root DIR`): stages are begun there with `keep`, so that they go on when this ends.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from prestage.cacher import lockfile
from prestage.cacher.agent.client import AgentClient, AgentGone
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.node.standalone.deciding import Decision, Known, Store, Window, decide
from prestage.node.standalone.demand_file import Key, Model, parse
from prestage.planner.plans import Outcome, Reason

TICK_S: Final = 2.0
"""At most so long between two looks: the store changes by others' hands."""
BUSY_S: Final = 0.5
"""While stages are under way: the next may begin when one ends."""
_AGAIN_S: Final = (5.0, 300.0)
_RATES_MAX: Final = 50

Resolve = Callable[[Model], Known]


@dataclass(slots=True)
class Standalone:
    """`step` does one turn. `resolve`: at the model's origin."""

    client: AgentClient
    file: Path
    resolve: Resolve
    now: Callable[[], float] = time.time
    _stamp: tuple[int, int, int] | None = None
    _models: tuple[Model, ...] = ()
    _known: dict[Key, Known] = field(default_factory=dict)
    _failed: dict[Key, tuple[int, float]] = field(default_factory=dict)
    _begun: dict[Key, tuple[int, float]] = field(default_factory=dict)
    _last: Decision | None = None
    _said: dict[tuple[str, str, float], str] = field(default_factory=dict)
    _rates: dict[str, float] = field(default_factory=dict)

    def step(self) -> float:
        """One turn; returns seconds until the next.

        Raises:
            AgentGone: nobody owns the store; ask again.
            PrestageError: what the agent said.
        """
        self._read()
        self._resolve()
        store = self._store()
        decision = decide(self._models, self._known, store, self.now(), self._last.plan if self._last is not None else None)
        for model in decision.begin:
            self._begin(model)
        for key in [key for key, known in self._known.items() if known.artifact in store.warm]:
            self._begun.pop(key, None)
        self._tell(decision)
        self._last = decision
        busy_s = BUSY_S if decision.begin or store.staging else TICK_S
        return min(busy_s, max(0.05, decision.again_at - self.now()))

    def _read(self) -> None:
        """One that went bad is told, and the last good one counts."""
        try:
            seen = self.file.stat()
            stamp = seen.st_mtime_ns, seen.st_size, seen.st_ino
            if stamp == self._stamp:
                return
            models = parse(self.file.read_text(), self.file.name)
        except (OSError, UnicodeDecodeError, Misconfigured) as exc:
            if self._stamp is None:
                raise exc if isinstance(exc, Misconfigured) else Misconfigured(f"{self.file} cannot be read: {exc}") from exc
            log("demand_not_read", level=logging.WARNING, fields={"file": str(self.file), "error": str(exc)})
            return
        self._stamp, self._models = stamp, models
        keys = {model.key for model in models}
        self._known = {key: known for key, known in self._known.items() if key in keys}
        self._failed.clear()
        log("demand_read", fields={"file": str(self.file), "models": len(models)})

    def _resolve(self) -> None:
        for model in self._models:
            tries, due = self._failed.get(model.key, (0, 0.0))
            if model.key in self._known or self.now() < due:
                continue
            try:
                self._known[model.key] = self.resolve(model)
            except PrestageError as exc:
                least_s, most_s = _AGAIN_S
                self._failed[model.key] = tries + 1, self.now() + min(most_s, least_s * 2.0 ** min(tries, 10))
                log("resolve_failed", level=logging.WARNING, fields={"ref": model.ref.name, "error": str(exc)})

    def _store(self) -> Store:
        status = self.client.call("GET", "/v1/status")
        usage, stages = _mapping(status.get("usage")), _items(self.client.call("GET", "/v1/stages"))
        artifacts = _items(self.client.call("GET", "/v1/artifacts"))
        warm = frozenset(str(one.get("artifact")) for one in artifacts if one.get("state") == "staged")
        by_ref = {model.ref.name: self._known[model.key].artifact for model in self._models if model.key in self._known}
        staging = set[str]()
        for one in stages:
            artifact = one.get("artifact") or by_ref.get(str(one.get("ref")))
            if one.get("state") in _UNDER_WAY and artifact:
                staging.add(str(artifact))
            rate = one.get("bytes_per_s")
            if isinstance(rate, int | float) and rate > 0:
                self._rates[str(one.get("id"))] = float(rate)
        while len(self._rates) > _RATES_MAX:
            del self._rates[next(iter(self._rates))]
        rates = sorted(self._rates.values())
        return Store(
            limit_bytes=_number(usage.get("limit")),
            used_bytes=_number(usage.get("used")) + _number(usage.get("reserved")),
            warm=warm,
            staging=frozenset(staging) - warm,
            rate_bytes_per_s=rates[len(rates) // 10] if rates else None,
        )

    def _begin(self, model: Model) -> None:
        """One that failed for good is begun again later and later: somebody has to do something first."""
        tries, due = self._begun.get(model.key, (0, 0.0))
        if self.now() < due:
            return
        least_s, most_s = _AGAIN_S
        self._begun[model.key] = tries + 1, self.now() + min(most_s, least_s * 2.0 ** min(tries, 10))
        body = {"ref": model.text, "include": model.include, "exclude": model.exclude, "priority": "declared", "keep": True}
        self.client.call("POST", "/v1/stages", body)
        log("stage_begun", fields={"ref": model.ref.name})

    def _tell(self, decision: Decision) -> None:
        """Each window once for each thing that is new about it."""
        fresh: dict[tuple[str, str, float], str] = {}
        for window in decision.windows:
            key = window.model.ref.name, window.name, window.opening.begins
            fresh[key] = _state(window)
            if self._said.get(key) != fresh[key]:
                log(fresh[key], fields=_fields(window, self.now()))
        self._said = fresh


_UNDER_WAY: Final = frozenset({"queued", "running", "waiting", "paused"})


def _state(window: Window) -> str:
    """The event that tells it."""
    if window.verdict.reason is Reason.WARM:
        return "window_ready"
    if window.verdict.outcome is Outcome.ON_TIME:
        return "window_planned"
    return "window_late" if window.verdict.outcome is Outcome.LATE else "window_impossible"


def _fields(window: Window, now: float) -> dict[str, object]:
    verdict = window.verdict
    made: dict[str, object] = {"ref": window.model.ref.name, "window": window.name, "reason": str(verdict.reason)}
    if window.opening.begins > now:
        made["ready_in_s"] = round(window.opening.begins - now, 1)
    if verdict.start_by is not None:
        made["start_in_s"] = round(verdict.start_by - now, 1)
    if verdict.late_by_s:
        made["late_by_s"] = round(verdict.late_by_s, 1)
    return made


def at_origins(environ: Mapping[str, str]) -> tuple[Resolve, Callable[[], None]]:
    """A `resolve` by the credentials of this process, and what closes it."""
    client = HttpClient(NetConfig.from_environ(environ))

    def resolve(model: Model) -> Known:
        wish = model.ref, Selection(model.include, model.exclude)
        [pin] = lockfile.resolved([wish], lambda ref: open_origin(ref, client=client, environ=environ))
        return Known(pin.artifact, pin.bytes)

    return resolve, client.close


def run(root: Path, file: Path, *, waiting_s: float = 3.0) -> None:
    """Until SIGTERM or SIGINT.

    Raises:
        Misconfigured: no agent owns the store, or the file is wrong from the beginning.
    """
    client = AgentClient.awaited(root, waiting_s)
    if client is None:
        raise Misconfigured(f"no agent owns the store {root}", hint=f"start one: prestage agent --root {root}")
    stop = threading.Event()

    def stopped(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stopped)
    resolve, close = at_origins(os.environ)
    try:
        standalone = Standalone(client, file, resolve)
        while not stop.is_set():
            wait_s = TICK_S
            try:
                wait_s = standalone.step()
            except AgentGone as exc:
                log("agent_away", level=logging.WARNING, fields={"error": str(exc)})
                with suppress(AgentGone):
                    standalone.client = AgentClient.of(root) or client
            except Misconfigured:
                raise
            except PrestageError as exc:
                log("step_failed", level=logging.WARNING, fields={"error": str(exc)})
            stop.wait(wait_s)
    finally:
        close()


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}


def _items(given: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = given.get("items")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _number(given: object) -> int:
    return given if isinstance(given, int) else 0
