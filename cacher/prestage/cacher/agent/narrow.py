"""A second kind of socket, made to be mounted into a pod: resolve and report, for given artifacts only. No caller is asked who he
is: whoever reaches the socket may do what it allows, and it allows nothing that hurts others.

    GET  /v1/resolve?ref=NAME|ARTIFACT     where it lies, as this client sees it
    POST /v1/report                        a chunk with wrong bytes: looked at again, healed; bounded, for a look costs a read
    GET  /v1/events                        its artifacts damaged, healing, staged anew, as it happens; to few listeners at once

Sockets live as long as the agent: whoever asked for them (the node's part that mounts) asks again after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from prestage.cacher.agent.callers import Role
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.http import Api, IdleConnections
from prestage.cacher.agent.listening import bound, bound_sealed, unlink
from prestage.cacher.agent.messages import NamedRequest, Reported, ReportRequest, Resolved, SocketRequest
from prestage.cacher.agent.routes import Call, Route
from prestage.cacher.agent.service import Service
from prestage.cacher.errors import Busy, Denied, Misconfigured, NotFound
from prestage.cacher.staging.events import Event

SOCKETS_MAX = 1000
LISTENERS_MAX = 4
REPORTS_BURST = 16
REPORTS_PER_S = 1 / 6
"""Ten a minute after the first sixteen: a reader with a bad disk has more bad chunks, not more to say."""
_CLOSE_S = 1.0
_TOLD = ("event", "at", "artifact", "path")
_TOLD_OF = ("damaged", "healing", "staged")


@dataclass(slots=True)
class Allowance:
    """How many reports a socket may still make. Pure but for its own state."""

    left: float = REPORTS_BURST
    looked_at: float = field(default_factory=time.monotonic)

    def take(self, now: float) -> bool:
        """One more, if there is one."""
        self.left = min(REPORTS_BURST, self.left + (now - self.looked_at) * REPORTS_PER_S)
        self.looked_at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Scope:
    """What one socket allows."""

    def __init__(self, artifacts: Mapping[str, str], mount: str, *, is_flat: bool = False) -> None:
        self._artifacts, self._mount, self._is_flat = dict(artifacts), mount, is_flat
        self._allowance = Allowance()
        self._listeners = 0

    def routes(self) -> tuple[Route, ...]:
        """Its API."""
        return (
            Route("GET", "/v1/resolve", Role.NOBODY, "Where it lies", self._resolve, takes=NamedRequest, gives=Resolved),
            Route(
                "POST", "/v1/report", Role.NOBODY, "A chunk has wrong bytes", self._report, takes=ReportRequest, gives=Reported
            ),
            Route("GET", "/v1/events", Role.NOBODY, "Damaged, healing, staged anew", stream=self._events),
        )

    async def _resolve(self, call: Call) -> Resolved:
        assert isinstance(call.body, NamedRequest)
        ref = call.body.ref
        for name, artifact in self._artifacts.items():
            if ref in (name, artifact):
                found = await call.service.resolve(NamedRequest(artifact))
                shown = self._mount if self._is_flat else f"{self._mount}/{name}"
                return Resolved(artifact, shown) if self._mount else found
        raise NotFound(f"{ref!r} is not among what this socket is for", hint=f"it is for: {', '.join(sorted(self._artifacts))}")

    async def _report(self, call: Call) -> Reported:
        assert isinstance(call.body, ReportRequest)
        if call.body.artifact not in self._artifacts.values():
            raise Denied(f"{call.body.artifact} is not among what this socket is for", hint="report what was mounted here")
        if not self._allowance.take(time.monotonic()):
            raise Busy("too many reports", hint="the first ones are being looked at; report again in a minute")
        return await call.service.report(call.body)

    async def _events(self, call: Call) -> AsyncGenerator[Event]:
        if self._listeners >= LISTENERS_MAX:
            raise Busy(f"{LISTENERS_MAX} listen here already", hint="let one process of the pod listen for all")
        return self._told(call.service.events())

    async def _told(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """What concerns its artifacts, and no more of it than is seen from the pod."""
        self._listeners += 1
        try:
            async with aclosing(events):
                async for event in events:
                    if event["event"] in _TOLD_OF and event.get("artifact") in self._artifacts.values():
                        yield {name: event[name] for name in _TOLD if name in event}
                    elif event["event"] == "alive":
                        yield event
        finally:
            self._listeners -= 1


@dataclass(slots=True)
class _Open:
    runner: web.AppRunner
    care: asyncio.Task[None]


class Sockets:
    """The narrow sockets of one agent. On the loop; close it."""

    def __init__(self, service: Service, config: AgentConfig) -> None:
        self._service, self._config = service, config
        self._open: dict[Path, _Open] = {}

    async def open(self, request: SocketRequest, *, sealed: bool = False) -> None:
        """Listen; replaces one that we have at that path. `sealed`: its folder is not to be written to otherwise, and is seen
        elsewhere by a shorter name.

        Raises:
            Misconfigured: not an absolute path, too long, somebody else's, or too many.
        """
        path = Path(request.path)
        if not path.is_absolute():
            raise Misconfigured(f"{request.path!r} is not an absolute path", hint="give the whole path of the socket")
        await self.close_one(path)
        if len(self._open) >= SOCKETS_MAX:
            raise Misconfigured(f"{SOCKETS_MAX} sockets are open", hint="close those that nobody uses")
        api = Api(self._service, self._config, Scope(request.artifacts, request.mount, is_flat=request.flat).routes())
        runner = web.AppRunner(api.application(), access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_S)
        await runner.setup()
        try:
            bind = bound_sealed if sealed else bound
            await web.SockSite(runner, bind(path, mode=0o666), backlog=64).start()
        except BaseException:
            await runner.cleanup()
            raise
        assert runner.server is not None
        care = asyncio.create_task(IdleConnections(runner.server, self._config.idle_connection_s).run())
        self._open[path] = _Open(runner, care)

    async def close_one(self, path: Path) -> None:
        """Idempotent."""
        if (found := self._open.pop(path, None)) is not None:
            unlink(path)
            found.care.cancel()
            with suppress(asyncio.CancelledError):
                await found.care
            await found.runner.cleanup()

    async def close(self) -> None:
        """All of them."""
        for path in list(self._open):
            await self.close_one(path)
