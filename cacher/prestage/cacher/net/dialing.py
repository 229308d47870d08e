"""From a URL's host to an open connection: resolve, check, connect to what was checked; proxy and TLS where they belong.

    name -> addresses -> policy says yes or no to each -> TCP to that very address -> CONNECT -> TLS

Nothing is resolved twice: what the policy saw is what is connected to, whatever the name says a moment later. Every wait ends:
names resolve within the connect timeout, TCP, proxy and TLS share it, and all of them end soon after `leaving` is set.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from prestage.cacher.net.config import NetConfig, Proxy
from prestage.cacher.net.connection import LOOK_S, Connection, TlsConnection
from prestage.cacher.net.errors import AddressRefused, NetError
from prestage.cacher.net.head import END, MAX_HEAD_BYTES, parse_head
from prestage.cacher.net.policy import ANYWHERE, AddressPolicy

_Some = TypeVar("_Some", bound=Connection)
_Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a connection goes; the key under which idle ones are kept."""

    scheme: str
    host: str
    port: int
    connect_to: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections under one configuration and one policy."""

    config: NetConfig
    policy: AddressPolicy = ANYWHERE

    def connect(self, endpoint: Endpoint, context: ssl.SSLContext | None, leaving: threading.Event | None = None) -> Connection:
        """Open a connection to `endpoint`, through its proxy if it has one. It heeds `leaving` until told otherwise.

        Raises:
            NetError: `dns`, `refused`, `connect-timeout`, `proxy`, `tls`, `aborted`.
            AddressRefused: the policy forbids it.
        """
        config, leaving = self.config, leaving or threading.Event()
        proxy = None if endpoint.connect_to else config.proxy_for(endpoint.scheme, endpoint.host)
        deadline = time.monotonic() + config.connect_timeout_s
        sock = self._reach(endpoint, proxy, leaving)
        try:
            made: Connection = self._attended(Connection(sock), deadline, leaving)
            if endpoint.scheme == "https":
                if proxy:
                    _tunnel(made, endpoint, proxy)
                tls = self._attended(_secured(sock, context or config.tls_context(), endpoint.host), deadline, leaving)
                tls.handshake()
                made = tls
            made.until(math.inf)
            made.watch(config.idle_timeout_s)
            return made
        except BaseException:
            sock.close()
            raise

    def _attended(self, connection: _Some, deadline: float, leaving: threading.Event) -> _Some:
        """While it is being set up, a connection has the connect timeout, and an ear for `leaving`."""
        connection.watch(self.config.connect_timeout_s)
        connection.until(deadline)
        connection.heed(leaving)
        return connection

    def _reach(self, endpoint: Endpoint, proxy: Proxy | None, leaving: threading.Event) -> socket.socket:
        timeout_s = self.config.connect_timeout_s
        if proxy is not None:
            self.policy.check_proxied(endpoint.host)
            # The proxy's own address is the operator's choice, not the ref's.
            return _tcp(proxy.host, proxy.port, _addresses(proxy.host, proxy.port, timeout_s, leaving), timeout_s, leaving)
        host, port = endpoint.connect_to or (endpoint.host, endpoint.port)
        found = self._permitted(host, _addresses(host, port, timeout_s, leaving))
        return _tcp(host, port, found, timeout_s, leaving)

    def _permitted(self, host: str, found: Sequence[_Found]) -> Sequence[_Found]:
        """Those of the addresses that the policy allows.

        Raises:
            AddressRefused: it allows none.
        """
        permitted, refusal = list[_Found](), None
        for one in found:
            try:
                self.policy.check(host, str(one[4][0]))
                permitted.append(one)
            except AddressRefused as exc:
                refusal = exc
        if refusal is not None and not permitted:
            raise refusal
        return permitted


def _secured(sock: socket.socket, context: ssl.SSLContext, host: str) -> TlsConnection:
    try:
        return TlsConnection(sock, context, host)
    except ValueError as exc:
        raise NetError("tls", f"{host!r} is no name that a certificate can carry: {exc}", retryable=False) from exc


def _addresses(host: str, port: int, timeout_s: float, leaving: threading.Event) -> Sequence[_Found]:
    """What `host` resolves to. getaddrinfo knows no deadline, so a thread of its own waits for it; that may outlive the call."""
    answer = queue.SimpleQueue[Sequence[_Found] | OSError | UnicodeError]()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            answer.put(exc)

    with contextlib.suppress(OSError, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    try:
        threading.Thread(target=ask, name="prestage-resolve", daemon=True).start()
    except RuntimeError as exc:
        raise NetError("dns", f"{host!r} is not asked for: the system gives no thread: {exc}") from exc
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            found = answer.get(timeout=min(left, LOOK_S))
            if isinstance(found, Exception):
                raise NetError("dns", f"{host!r} does not resolve: {found}") from found
            return found
        _heed(leaving)
    raise NetError("dns", f"{host!r} did not resolve within {timeout_s:g} s")


def _tcp(host: str, port: int, found: Sequence[_Found], timeout_s: float, leaving: threading.Event) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    failure = NetError("refused", f"no address for {host!r}")
    for index, (family, kind, protocol, _, address) in enumerate(found):
        left = (deadline - time.monotonic()) / (len(found) - index)
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            _connect(sock, address, left, leaving)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except TimeoutError:
            sock.close()
            failure = NetError("connect-timeout", f"{host} port {port} did not answer within {timeout_s:g} s")
        except OSError as exc:
            sock.close()
            failure = NetError("refused", f"{host} port {port}: {exc.strerror or exc}")
        except BaseException:
            sock.close()
            raise
    raise failure


def _connect(sock: socket.socket, address: tuple[object, ...], timeout_s: float, leaving: threading.Event) -> None:
    """connect(2) that looks up from time to time. The socket is in blocking mode afterwards."""
    deadline = time.monotonic() + timeout_s
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while not poll.poll(LOOK_S * 1000):
            _heed(leaving)
            if time.monotonic() > deadline:
                raise TimeoutError
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.setblocking(True)


def _heed(leaving: threading.Event) -> None:
    if leaving.is_set():
        raise NetError("aborted", "called off while it connected")


def _tunnel(plain: Connection, endpoint: Endpoint, proxy: Proxy) -> None:
    target = f"{_bracketed(endpoint.host)}:{endpoint.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    plain.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    raw = bytearray()
    byte = memoryview(bytearray(1))
    while not raw.endswith(END):
        # One byte at a time: what follows the head already belongs to TLS.
        if not plain.recv_into(byte, whole=False) or len(raw) > MAX_HEAD_BYTES:
            raise NetError("proxy", f"{proxy.host} port {proxy.port} closed or babbled during CONNECT")
        raw += byte
    head, _ = parse_head(bytes(raw[: -len(END)]))
    if not 200 <= head.status < 300:
        detail = f"{proxy.host} port {proxy.port} answered {head.status} to CONNECT {target}"
        raise NetError("proxy", detail, retryable=head.status >= 500)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
