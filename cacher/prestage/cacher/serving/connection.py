"""One connection of a peer: a state machine on the worker's loop. Every wait in it ends.

HEAD     a request comes in
ASKING   a thread looks at the disk for its answer                then SENDING, or PARKED
PARKED   a long-poll: nothing new of an ingest yet                then ASKING again, until something is new or time is up
SENDING  the answer goes out, step by step                        then HEAD, or LINGER
LINGER   the peer may still read an error before the connection goes
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Protocol

from prestage.cacher.serving.answers import Answer, Resources, head, refusal
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.loop import Loop
from prestage.cacher.serving.outgoing import Outgoing, Step
from prestage.cacher.serving.requests import MAX_HEAD_BYTES, Asked, Refused, Request, parse, route
from prestage.cacher.serving.sending import Pace
from prestage.cacher.serving.tokens import Tokens
from prestage.cacher.serving.tree import Tree

_READ_BYTES = 16 << 10
_LINGER_S = 1.0
"""How long a peer has to read an error before the connection goes: closing at once would reset it away."""
_LOOK_S = 0.2
"""How often a parked long-poll looks at the journal, which is written once a second."""
_PACE_LOOK_S = 0.25
"""How late a lifted upload cap is noticed."""
log = logging.getLogger(__name__)


class State(Enum):
    """Where a connection is; see the module."""

    HEAD = "head"
    ASKING = "asking"
    PARKED = "parked"
    SENDING = "sending"
    LINGER = "linger"
    CLOSED = "closed"


class House(Protocol):
    """What connections share: their worker."""

    config: ServingConfig
    loop: Loop
    tree: Tree
    resources: Resources
    tokens: Tokens
    pace: Pace
    draining: bool

    def served(self, size_bytes: int) -> None:
        """So many bytes of bodies went."""
        ...

    def counted(self, *, refused: bool) -> None:
        """A request was answered."""
        ...

    def cut(self) -> None:
        """A connection was dropped because its peer took nothing."""
        ...

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        ...


class Connection:
    """See the module. `sock` is non-blocking and becomes its own."""

    def __init__(self, house: House, sock: socket.socket, peer: str) -> None:
        self._house, self._sock, self.peer = house, sock, peer
        self._fd = sock.fileno()
        self.state = State.HEAD
        self._raw = bytearray()
        self._request: Request | None = None
        self._outgoing: Outgoing | None = None
        self._keep_alive = True
        self._deadline = time.monotonic() + house.config.head_s
        self._taken = 0
        self._is_busy = self._is_paced = False
        self._events = select.EPOLLIN
        house.loop.watch(self._fd, self._events, self._on_ready)

    @property
    def is_idle(self) -> bool:
        """Between two requests."""
        return self.state is State.HEAD and not self._raw

    def refuse(self, refused: Refused) -> None:
        """Answer with an error whatever comes."""
        self._guarded(partial(self._refuse, refused))

    def _on_ready(self, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP) and not events & select.EPOLLIN:
            self._leave()
        elif self.state is State.HEAD:
            self._guarded(self._read)
        elif self.state is State.SENDING:
            self._guarded(self._send)
        elif self.state is State.LINGER:
            self._guarded(self._discard)
        elif self.state is State.PARKED and events & select.EPOLLRDHUP:
            self._leave()

    def _guarded(self, step: Callable[[], None]) -> None:
        """A step whose failure ends this connection and no other."""
        try:
            step()
        except OSError:
            self._leave()
        except Exception:  # one connection's bug must not end the others of this worker
            log.exception("connection-failed")
            self._leave()

    def _leave(self) -> None:
        """The peer is gone: close, now or when the thread that uses the descriptors is done."""
        if self._is_busy:
            self._house.loop.unwatch(self._fd)
            self.state = State.CLOSED
            return
        self.close()

    def _wait_for(self, events: int) -> None:
        if events != self._events and self.state is not State.CLOSED:
            self._events = events
            self._house.loop.change(self._fd, events)

    # -- requests

    def _read(self) -> None:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            self.close()
            return
        if not self._raw:
            self._deadline = time.monotonic() + self._house.config.head_s
        self._raw += data
        self._take_request()

    def _take_request(self) -> None:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0 and len(self._raw) <= MAX_HEAD_BYTES:
            self._wait_for(select.EPOLLIN)
            return
        try:
            if not 0 <= end <= MAX_HEAD_BYTES:
                raise Refused(431, f"a head of more than {MAX_HEAD_BYTES} bytes", close=True)
            request = parse(bytes(self._raw[:end]))
            del self._raw[: end + 4]
            if not self._house.tokens.admits(request.headers.get("authorization", "")):
                raise Refused(401, "no valid token", {"WWW-Authenticate": 'Bearer realm="prestage"'}, close=True)
            self._request, self._keep_alive = request, request.keep_alive
            self._ask(request, route(request))
        except Refused as exc:
            self._refuse(exc)

    def _ask(self, request: Request, asked: Asked, until: float | None = None) -> None:
        self.state = State.ASKING
        self._wait_for(0)
        if until is None:
            longest_s = self._house.config.wait_s
            until = time.monotonic() + min(longest_s, longest_s if asked.wait_s is None else asked.wait_s)
        self._in_thread(
            partial(self._house.resources.answer, request, asked),
            partial(self._answered, request, asked, until),
        )

    def _in_thread(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        def finish(outcome: object) -> None:
            self._is_busy = False
            if self.state is not State.CLOSED:
                self._guarded(partial(done, outcome))
                return
            if isinstance(outcome, Answer) and outcome.content is not None:
                outcome.content.close()
            self.close()

        self._is_busy = True
        self._house.loop.in_thread(work, finish)

    def _answered(self, request: Request, asked: Asked, until: float, outcome: object) -> None:
        if outcome is None:
            self._park(request, asked, until)
        elif isinstance(outcome, Answer):
            self._reply(outcome)
        elif isinstance(outcome, Refused):
            self._refuse(outcome)
        else:
            log.error("request-failed", exc_info=outcome if isinstance(outcome, Exception) else None)
            self._refuse(Refused(500, "the store cannot be read", close=True))

    def _park(self, request: Request, asked: Asked, until: float) -> None:
        self.state = State.PARKED
        self._wait_for(select.EPOLLRDHUP)
        left_s = until - time.monotonic()
        if left_s <= 0 or self._house.draining:
            asked, left_s = replace(asked, wait_s=0.0), 0.0

        def look() -> None:
            if self.state is State.PARKED:
                self._guarded(partial(self._ask, request, asked, until))

        self._house.loop.later(min(_LOOK_S, left_s), look)

    def _refuse(self, refused: Refused) -> None:
        self._reply(refusal(refused), refused=refused.status in (400, 401, 408, 431, 503))

    # -- answers

    def _reply(self, answer: Answer, *, refused: bool = False) -> None:
        self._house.counted(refused=refused)
        self._keep_alive = self._keep_alive and not answer.close and not self._house.draining
        raw = head(answer, keep_alive=self._keep_alive, now=time.time())
        with_body = self._request is None or self._request.method != "HEAD"
        self._outgoing = Outgoing(self._sock, raw, answer, with_body=with_body)
        self._taken, self._is_paced = self._outgoing.taken_bytes, False
        self.state = State.SENDING
        self._deadline = time.monotonic() + self._house.config.idle_s
        self._send()

    def _send(self) -> None:
        outgoing, pace = self._outgoing, self._house.pace
        if outgoing is None or self._is_busy or self.state is not State.SENDING:
            return
        if not outgoing.send_small():
            self._wait_for(select.EPOLLOUT)
        elif not outgoing.is_done and (wait_s := pace.wait_s()) > 0:
            self._is_paced = True
            self._wait_for(0)
            self._house.loop.later(min(wait_s, _PACE_LOOK_S), partial(self._guarded, self._send))
        else:
            self._stepped(outgoing, *outgoing.step(pace.step_bytes, self._house.tree))

    def _stepped(self, outgoing: Outgoing, step: Step, count: int) -> None:
        self._house.served(count)
        self._house.pace.sent(count)
        if step is Step.DONE:
            self._finish()
        elif step is Step.FULL:
            self._wait_for(select.EPOLLOUT)
        elif step is Step.COLD:
            self._wait_for(0)
            self._in_thread(partial(outgoing.cold_step, self._house.pace.step_bytes), partial(self._cold_stepped, outgoing))
        else:
            self._reset()

    def _cold_stepped(self, outgoing: Outgoing, outcome: object) -> None:
        if outcome is None or isinstance(outcome, int):
            self._stepped(outgoing, *outgoing.went(outcome))
        else:
            self._reset()

    def _finish(self) -> None:
        self._drop_outgoing()
        if not self._keep_alive or self._house.draining:
            self._linger()
            return
        self.state = State.HEAD
        self._request = None
        self._deadline = time.monotonic() + (self._house.config.head_s if self._raw else self._house.config.keep_alive_s)
        self._wait_for(select.EPOLLIN)
        if self._raw:  # pipelined: next turn, so that nobody keeps the loop to himself
            self._house.loop.later(0.0, self._take_next)

    def _take_next(self) -> None:
        if self.state is State.HEAD and self._raw:
            self._guarded(self._take_request)

    # -- ends

    def _linger(self) -> None:
        self.state = State.LINGER
        self._deadline = time.monotonic() + _LINGER_S
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._wait_for(select.EPOLLIN)

    def _discard(self) -> None:
        if not self._sock.recv(_READ_BYTES):
            self.close()

    def drain(self) -> None:
        """Finish what runs, then close; nothing new is taken."""
        if self.is_idle:
            self.close()

    def sweep(self, now: float) -> None:
        """Called every second: what has waited too long ends."""
        if now < self._deadline or self._is_busy or self.state in (State.PARKED, State.CLOSED):
            return
        if self.state is State.HEAD and self._raw:
            self.refuse(Refused(408, "the request did not come whole in time", close=True))
        elif self.state is State.SENDING:
            self._look_at_reader(now)
        else:
            self.close()

    def _look_at_reader(self, now: float) -> None:
        config = self._house.config
        taken = self._outgoing.taken_bytes if self._outgoing is not None else 0
        if taken - self._taken < config.slow_bytes_per_s * config.idle_s and not self._is_paced:
            self._house.cut()
            self._reset()
            return
        self._taken, self._is_paced, self._deadline = taken, False, now + config.idle_s

    def _reset(self) -> None:
        """The peer must not take what it has for whole."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._leave()

    def _drop_outgoing(self) -> None:
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None

    def close(self) -> None:
        """Idempotent; not while a thread uses its descriptors (`_leave` sees to that)."""
        if self._sock.fileno() < 0:
            return
        self.state = State.CLOSED
        self._drop_outgoing()
        self._house.loop.unwatch(self._fd)
        self._sock.close()
        self._house.closed(self)
