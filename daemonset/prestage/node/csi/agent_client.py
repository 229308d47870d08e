"""The agent, asked from an event loop: calls and streams over its socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from prestage.cacher.agent.messages import Problem, TreeRequest, TreeView
from prestage.cacher.errors import Bug, Busy, Corrupt, Denied, Full, Misconfigured, NotFound, PrestageError, Unavailable

CALL_S = 60.0
SILENCE_S = 30.0
"""The agent says something on every stream every 5 s."""
_KINDS: Mapping[str, type[PrestageError]] = {
    kind.kind: kind for kind in (Misconfigured, NotFound, Denied, Corrupt, Busy, Full, Unavailable, Bug)
}
_NETWORK = (aiohttp.ClientError, OSError, TimeoutError)
_T = TypeVar("_T")


class AgentClient:
    """Open it with `async with`. A connection for each question: the agent closes those that are idle."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._socket), force_close=True, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._session is not None
        await self._session.close()

    async def compose(self, request: TreeRequest) -> TreeView:
        """The tree of a mount; asked twice, the same."""
        return await self._call("POST", "/v1/trees", request, TreeView)

    async def trees(self) -> list[TreeView]:
        """Those of all mounts."""
        return await self._call("GET", "/v1/trees", None, list[TreeView])

    async def drop(self, hold: str) -> None:
        """Let go of a tree. Idempotent."""
        await self._call("DELETE", f"/v1/trees/{hold}", None, None)

    async def state(self, artifact: str) -> str:
        """`staged`, or why it is not."""
        try:
            await self._call("GET", f"/v1/resolve?ref={artifact}", None, None)
        except NotFound:
            return "absent"
        except Corrupt:
            return "damaged"
        return "staged"

    async def stage(self, artifact: str) -> AsyncGenerator[dict[str, object]]:
        """Stage it for a waiting pod, and follow that: events up to `done`. Closing it early takes the wish back.

        Raises:
            PrestageError: what came instead.
        """
        body = {"ref": artifact, "priority": "waiting-pod"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S, sock_connect=5.0)
        try:
            async with self._open.post("http://agent/v1/stage", json=body, timeout=timeout) as response:
                if response.status >= 400:
                    raise _told(await response.read())
                async for line in response.content:
                    event = json.loads(line)
                    if event.get("event") == "error":
                        raise _KINDS.get(str(event.get("kind")), Bug)(str(event.get("message")), hint=event.get("hint"))
                    yield event
                    if event.get("event") == "done":
                        return
        except _NETWORK as exc:
            raise _away(exc) from exc
        raise Unavailable("the agent ended", hint="its successor goes on where it was")

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def _call(self, method: str, path: str, body: msgspec.Struct | None, answer: type[_T] | None) -> _T:
        data = None if body is None else msgspec.json.encode(body)
        timeout = aiohttp.ClientTimeout(total=CALL_S)
        try:
            async with self._open.request(method, f"http://agent{path}", data=data, timeout=timeout) as response:
                raw = await response.read()
        except _NETWORK as exc:
            raise _away(exc) from exc
        if response.status >= 400:
            raise _told(raw)
        return msgspec.json.decode(raw, type=answer) if answer is not None else None  # type: ignore[return-value]  # None where the caller asked for none


def _told(raw: bytes) -> PrestageError:
    try:
        problem = msgspec.json.decode(raw, type=Problem)
    except msgspec.DecodeError:
        return Unavailable("the agent's answer cannot be read", hint="do agent and csi differ by more than one version?")
    return _KINDS.get(problem.kind, Bug)(problem.message, hint=problem.hint)


def _away(exc: BaseException) -> Unavailable:
    return Unavailable(f"the node's agent does not answer ({type(exc).__name__})", hint="it may be starting")
