"""The other end of the agent's socket: what the command line speaks. Blocking, one request at a time, every wait bounded."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prestage.cacher.errors import Busy, Corrupt, Denied, Full, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.staging.events import Event
from prestage.cacher.store.locks import owner_of

CONNECT_S = 5.0
SILENCE_S = 30.0
"""A stream that says nothing for so long, not even that it is alive, is broken. The agent says something every 5 s."""
CALL_S = 120.0
LINE_BYTES = 16 << 20
"""Longest event: a verify that found some ten thousand files damaged."""
_KINDS: Mapping[str, type[PrestageError]] = {
    kind.kind: kind for kind in (Misconfigured, NotFound, Denied, Corrupt, Busy, Full, Unavailable)
}


class AgentGone(Exception):
    """The agent ended, or was never there: the question may be asked again of its successor."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_S)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self.timeout)


class AgentClient:
    """Speaks to the agent at `socket`. Not thread-safe, keeps nothing open between calls."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    @classmethod
    def of(cls, root: Path) -> AgentClient | None:
        """The live agent of the store at `root`, if there is one."""
        owner = owner_of(root)
        return cls(owner.socket) if owner is not None and owner.socket is not None else None

    @classmethod
    def awaited(cls, root: Path, timeout_s: float) -> AgentClient | None:
        """The same, waiting for one that is just starting."""
        deadline = time.monotonic() + timeout_s
        while True:
            client = cls.of(root)
            if client is not None:
                with suppress(AgentGone):
                    client.call("GET", "/v1/status")
                    return client
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """One question, one answer ({} when there is none).

        Raises:
            AgentGone: nobody answered.
            Unavailable: that is no agent's answer.
            PrestageError: what the agent said.
        """
        with _Exchange(self.socket, CALL_S) as exchange:
            raw = exchange.send(method, path, body, query or {}).read()
        answer = _parsed(raw) if raw else {}
        return answer if isinstance(answer, dict) else {"items": answer}

    def stream(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Iterator[Event]:
        """Events up to the last one, signs of life left out. Closing it early makes the agent see that nobody listens.

        Raises:
            AgentGone: it broke off before its last event.
            PrestageError: what the agent said instead of a stream, or as its last event.
            Unavailable: it says what is no event, or a longer one than LINE_BYTES: asked again, it would say the same.
        """
        with _Exchange(self.socket, SILENCE_S) as exchange:
            response = exchange.send(method, path, body, {})
            while line := response.readline(LINE_BYTES):
                if not line.endswith(b"\n") and len(line) < LINE_BYTES:
                    break
                event: Event = _document(line)
                if not isinstance(event.get("event"), str):
                    raise _not_understood(line)
                if event["event"] == "error":
                    raise _told(event)
                if event["event"] != "alive":
                    yield event
                if event["event"] == "done":
                    return
        raise AgentGone("the stream ended before its last event")


class _Exchange:
    """One connection, one request; what breaks it becomes AgentGone."""

    def __init__(self, socket: Path, timeout_s: float) -> None:
        self._connection = _UnixConnection(socket, timeout_s)

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._connection.close()
        if isinstance(error, (OSError, http.client.HTTPException, ValueError)) and not isinstance(error, BrokenPipeError):
            raise AgentGone(f"{type(error).__name__}: {error}") from error

    def send(
        self, method: str, path: str, body: Mapping[str, object] | None, query: Mapping[str, object]
    ) -> http.client.HTTPResponse:
        given = {name: value for name, value in query.items() if value not in (None, "", ())}
        target = path + (f"?{urllib.parse.urlencode(given, doseq=True)}" if given else "")
        raw = json.dumps(body).encode() if body is not None else None
        try:
            self._connection.request(method, target, body=raw, headers={"Content-Type": "application/json"})
            response = self._connection.getresponse()
        except OSError as exc:
            raise AgentGone(f"{type(exc).__name__}: {exc}") from exc
        if response.status >= 400:
            raise _told(_document(response.read()))
        return response


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise _not_understood(raw) from None


def _document(raw: bytes) -> dict[str, object]:
    found = _parsed(raw)
    if not isinstance(found, dict):
        raise _not_understood(raw)
    return found


def _not_understood(raw: bytes) -> Unavailable:
    said = f"the agent's answer is not understood: {len(raw)} bytes that begin with {raw[:40]!r}"
    return Unavailable(said, hint="look at the agent's log")


def _told(problem: Mapping[str, object]) -> PrestageError:
    kind = _KINDS.get(str(problem.get("kind")), PrestageError)
    hint = problem.get("hint")
    return kind(str(problem.get("message")), hint=str(hint) if hint else None)
