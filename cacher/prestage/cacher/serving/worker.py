"""A worker process: accepts, shares the load with its siblings, keeps the bounds, drains. Started by the supervisor.

All workers accept from one listening socket. The one with the fewest connections takes the next; the others sit out a moment and
then take what is still there, so that a stuck sibling holds nothing up. It ends with its parent.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress

from prestage.cacher.serving.answers import Resources
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.connection import Connection
from prestage.cacher.serving.counters import Counters, Row
from prestage.cacher.serving.loop import Loop
from prestage.cacher.serving.requests import Refused
from prestage.cacher.serving.sending import Pace
from prestage.cacher.serving.tokens import Tokens
from prestage.cacher.serving.tree import Tree

_SIT_OUT_S = 0.003
_NO_FILES_S = 0.1
"""How long nothing is accepted when no descriptor or memory is left."""
_SWEEP_S = 1.0
_REFUSED_MAX = 128
"""Most connections that are only being told 503; beyond them they are dropped without a word."""
_SPARE_FILES = 256
_PR_SET_PDEATHSIG = 1
log = logging.getLogger(__name__)


class Worker:
    """See the module. One of `counters.workers`."""

    def __init__(self, config: ServingConfig, listener: socket.socket, counters: Counters, number: int) -> None:
        self.config, self.loop = config, Loop()
        self.tree, self.tokens = Tree(config.root), Tokens(config.token_file)
        self.resources = Resources(self.tree)
        self.pace = Pace(lambda: counters.rate_bytes_per_s / counters.workers)
        self.draining = False
        self._listener, self._counters, self._number = listener, counters, number
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._swept = time.monotonic()

    def run(self) -> None:
        """Serve until drained."""
        self.loop.watch(self._listener.fileno(), select.EPOLLIN, self._on_listener)
        self._counters.put(self._number, Row.READY, 1)
        while not (self.draining and not self._connections and not self._refused):
            self.loop.turn(_SWEEP_S)
            now = time.monotonic()
            if now - self._swept >= _SWEEP_S:
                self._swept = now
                for connection in [*self._connections, *self._refused]:
                    connection.sweep(now)
        self.resources.ingests.close()
        self.loop.close()

    def drain(self) -> None:
        """Take nothing new; end when what runs is done."""
        if self.draining:
            return
        self.draining = True
        self._counters.put(self._number, Row.READY, 0)
        self.loop.unwatch(self._listener.fileno())
        for connection in list(self._connections):
            connection.drain()

    # -- accepting

    def _on_listener(self, _: int) -> None:
        if self._is_busier():
            self._sit_out(_SIT_OUT_S)
        else:
            self._accept()

    def _sit_out(self, pause_s: float) -> None:
        self.loop.change(self._listener.fileno(), 0)
        self.loop.later(pause_s, self._stop_sitting_out)

    def _is_busier(self) -> bool:
        mine = len(self._connections)
        loads = zip(self._counters.column(Row.ACTIVE), self._counters.column(Row.READY), strict=True)
        return any(ready and load < mine for load, ready in loads)

    def _stop_sitting_out(self) -> None:
        if not self.draining:
            self.loop.change(self._listener.fileno(), select.EPOLLIN)
            self._accept()

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._sit_out(_NO_FILES_S)
            return  # else a sibling was faster, or the peer left
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # Bounds what the kernel still has to deliver after we are done with a connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * self.config.idle_s))
        peer = str(address[0])
        if (why := self._is_too_many(peer)) is not None:
            self._turn_away(sock, peer, why)
            return
        self._connections.add(Connection(self, sock, peer))
        self._peers[peer] += 1
        self._counters.put(self._number, Row.ACTIVE, len(self._connections))

    def _is_too_many(self, peer: str) -> str | None:
        if sum(self._counters.column(Row.ACTIVE)) >= self.config.connections:
            return "too many connections"
        if self._peers[peer] >= self.config.connections_per_peer:
            return "too many connections from your address"
        return None

    def _turn_away(self, sock: socket.socket, peer: str, why: str) -> None:
        if len(self._refused) >= _REFUSED_MAX:
            sock.close()
            self._counters.add(self._number, Row.REFUSED)
            return
        connection = Connection(self, sock, peer)
        self._refused.add(connection)
        connection.refuse(Refused(503, why, {"Retry-After": "1"}, close=True))

    # -- what connections tell

    def served(self, size_bytes: int) -> None:
        """See `connection.House`."""
        self._counters.add(self._number, Row.BYTES, size_bytes)

    def counted(self, *, refused: bool) -> None:
        """See `connection.House`."""
        self._counters.add(self._number, Row.REFUSED if refused else Row.REQUESTS)

    def cut(self) -> None:
        """See `connection.House`."""
        self._counters.add(self._number, Row.CUT)

    def closed(self, connection: Connection) -> None:
        """See `connection.House`."""
        self._refused.discard(connection)
        if connection in self._connections:
            self._connections.remove(connection)
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]
            self._counters.put(self._number, Row.ACTIVE, len(self._connections))


def main() -> None:
    """The process. Its command line is written by the supervisor."""
    parser = argparse.ArgumentParser()
    for name in ("listener", "counters", "number", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--config", required=True)
    given = parser.parse_args()
    _die_with(given.parent)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    config = ServingConfig.from_json(given.config)
    _allow_files(config.connections)
    listener = socket.socket(fileno=given.listener)
    listener.setblocking(False)
    worker = Worker(config, listener, Counters(given.counters, config.workers), given.number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which drains us
    signal.set_wakeup_fd(worker.loop.waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: worker.loop.call(worker.drain))
    worker.run()


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(0)  # it died before we asked


def _allow_files(connections: int) -> None:
    """A socket and a file for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _SPARE_FILES
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


if __name__ == "__main__":
    main()
