"""An agent that owns the store does the work; without one the command does it itself, and makes way for an agent that starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prestage.cacher.agent.client import AgentClient, AgentGone
from prestage.cacher.errors import Busy, Unavailable
from prestage.cacher.staging.events import Event
from prestage.cacher.store.locks import is_awaited, owner_of

SUCCESSOR_S = 30.0
"""How long a successor may take to answer after an agent has gone, or a command has made way for one."""
_LOOK_S = 0.2


class MakingWay(threading.Event):
    """Set once an agent waits to take over the store at `root`: a cancellation that costs one look at a lock."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root, self._looked_at = root, 0.0

    def is_set(self) -> bool:
        """See threading.Event."""
        now = time.monotonic()
        if not super().is_set() and now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            if is_awaited(self._root):
                self.set()
        return super().is_set()


def agent_of(root: Path) -> AgentClient | None:
    """The agent that answers for `root`, None when nobody or a command owns it.

    Raises:
        Unavailable: an agent owns it and does not answer.
    """
    client = AgentClient.of(root)
    if client is None:
        return None
    awaited = AgentClient.awaited(root, SUCCESSOR_S)
    if awaited is not None:
        return awaited
    if owner_of(root) is None:
        return None
    raise Unavailable(f"the agent of {root} does not answer at {client.socket}", hint="look at its log, or restart it")


def followed(root: Path, path: str, body: Mapping[str, object]) -> Iterator[Event]:
    """A stream of the agent's; when it goes away in the middle, the same of its successor.

    Raises:
        Unavailable: no successor came.
        PrestageError: what the agent said.
    """
    while True:
        client = AgentClient.awaited(root, SUCCESSOR_S)
        if client is None:
            raise Unavailable(f"the agent of {root} has gone", hint="run the same command again: it goes on")
        with suppress(AgentGone):
            try:
                yield from client.stream("POST", path, body)
            except Unavailable as exc:
                if "shutting down" not in exc.message:
                    raise
            except Busy as exc:
                if "shutting down" not in exc.message:
                    raise
            else:
                return
        time.sleep(_LOOK_S)


def by_agent(root: Path, path: str, body: Mapping[str, object], show: Callable[[Event], None]) -> Event | None:
    """A stream of the agent's, each event shown; returns the last one, None when there is no agent."""
    if agent_of(root) is None:
        return None
    last: Event = {}
    for event in followed(root, path, body):
        show(event)
        last = event
    return last


def asked(root: Path, ask: Callable[[AgentClient], Mapping[str, object]]) -> Mapping[str, object] | None:
    """One answer of the agent, None when there is no agent."""
    client = agent_of(root)
    if client is None:
        return None
    try:
        return ask(client)
    except AgentGone as exc:
        raise Unavailable(f"the agent of {root} has gone: {exc}", hint="run the same command again") from exc
