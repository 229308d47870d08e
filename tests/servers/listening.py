"""A listening socket with one thread for each connection: what the servers written here stand on.

Owns its threads and sockets. `close` wakes every connection, waits for its thread and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Listening:
    """Calls `handle(connection, number)` on a thread for each connection, numbered from 1; closes it afterwards.

    An OSError from `handle` means that the client left, which is its right; anything else fails the test.
    """

    def __init__(
        self,
        handle: Callable[[socket.socket, int], None],
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.stopping = threading.Event()
        self.accepted = 0
        self._handle = handle
        self._tls = tls
        self._lock = threading.Lock()
        self._open = dict[threading.Thread, socket.socket]()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self._listener.settimeout(0.05)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"listening-{self.port}")
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def connected(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._open)

    def close(self) -> None:
        self.stopping.set()
        self._acceptor.join()
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """End the connections that are open now, and wait for their threads."""
        with self._lock:
            left = dict(self._open)
        for connection in left.values():
            with contextlib.suppress(OSError):  # already gone
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in left:
            thread.join()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            name = f"listening-{self.port}-{self.accepted}"
            thread = threading.Thread(target=self._serve, args=(connection, self.accepted), name=name)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._secured(self._tls, connection)
            self._handle(connection, number)
        except OSError:
            pass
        finally:
            connection.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _secured(self, tls: ssl.SSLContext, connection: socket.socket) -> socket.socket:
        connection.settimeout(10)
        secured = tls.wrap_socket(connection, server_side=True)
        secured.settimeout(None)
        with self._lock:
            self._open[threading.current_thread()] = secured
        return secured
