"""One connection: TCP, through a proxy if there is one, with TLS if the URL says so. Blocking, one thread at a time.

The plain socket stays in blocking mode with SO_RCVTIMEO as its idle watchdog: then MSG_WAITALL fills a whole buffer in
one call (Python's own timeouts make the socket non-blocking, which turns that off). TLS runs over memory BIOs fed by
big socket reads: two calls an `ssl.SSLSocket` makes for each 16 KiB record become one for 256 KiB.

Every wait ends: names resolve within the connect timeout; TCP, proxy and TLS share it; a read ends with the idle timeout, and
with `until` at a date, however often a single byte drips in (both are checked between reads, so up to one idle timeout late).
"""

from __future__ import annotations

import contextlib
import math
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from prestage.cacher.net.config import NetConfig, Proxy
from prestage.cacher.net.head import END, MAX_HEAD_BYTES, parse_head
from prestage.cacher.net.ports import NetError

TLS_READ_BYTES = 256 << 10

_Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a connection goes; the key under which idle ones are kept."""

    scheme: str
    host: str
    port: int
    connect_to: tuple[str, int] | None = None


class Connection:
    """A plain connection. `abort` may be called from any thread, the rest by one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline = math.inf

    def until(self, deadline: float) -> None:
        """From `deadline` (of `time.monotonic`) on `recv_into` fails, whatever comes; `math.inf`: only silence fails it."""
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._sock.sendall(data)
        except OSError as exc:
            raise NetError("reset", f"while sending: {exc}") from exc

    def recv_into(self, view: memoryview, *, whole: bool) -> int:
        """At least one byte, with `whole` as many as come in time; 0 when the other side closed."""
        if time.monotonic() > self._deadline:
            raise NetError("stalled", "it came too slowly, byte by byte")
        try:
            return self._sock.recv_into(view, len(view), socket.MSG_WAITALL if whole else 0)
        except (BlockingIOError, TimeoutError) as exc:
            raise NetError("stalled", "no byte came within the idle timeout") from exc
        except OSError as exc:
            raise NetError("reset", str(exc)) from exc

    def is_stale(self) -> bool:
        """True when the idle connection was closed or written to by the other side."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    def abort(self) -> None:
        """Make a blocked `recv_into` return now."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._sock.close()


class TlsConnection(Connection):
    """TLS over memory BIOs."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._cipher = memoryview(bytearray(TLS_READ_BYTES))

    def handshake(self) -> None:
        """Agree on keys and check the certificate."""
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                if not self._pump():
                    raise NetError("tls", "closed during the handshake") from None
            except ssl.SSLCertVerificationError as exc:
                detail = f"{exc.verify_message}; set PRESTAGE_CA_BUNDLE to the CA's PEM file if it is your own"
                raise NetError("tls", detail, retryable=False) from exc
            except ssl.SSLError as exc:
                raise NetError("tls", str(exc.reason or exc)) from exc

    def send(self, data: bytes) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as exc:
            raise NetError("reset", f"while sending: {exc.reason or exc}") from exc
        self._flush()

    def recv_into(self, view: memoryview, *, whole: bool) -> int:
        done = 0
        while done < len(view):
            try:
                count = cast(int, self._tls.read(len(view) - done, view[done:]))
            except ssl.SSLWantReadError:
                # Never fail with bytes in hand: whoever wants the view whole asks again, and gets the failure then.
                if done or not self._pump():
                    # Many servers close without TLS's own closing message. Whoever reads knows how many bytes must come: the
                    # engine from the manifest, small answers from their length or their syntax.
                    break
                continue
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLError as exc:
                raise NetError("tls", str(exc.reason or exc)) from exc
            if not count:
                break
            done += count
        return done

    def is_stale(self) -> bool:
        return self._tls.pending() > 0 or self._incoming.pending > 0 or super().is_stale()

    def _pump(self) -> int:
        count = super().recv_into(self._cipher, whole=False)
        if count:
            self._incoming.write(self._cipher[:count])
        return count

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().send(self._outgoing.read())


def connect(endpoint: Endpoint, config: NetConfig, context: ssl.SSLContext | None) -> Connection:
    """Open a connection to `endpoint`, through its proxy if it has one.

    Raises:
        NetError: `dns`, `refused`, `connect-timeout`, `proxy`, `tls`.
    """
    proxy = None if endpoint.connect_to else config.proxy_for(endpoint.scheme, endpoint.host)
    host, port = endpoint.connect_to or ((proxy.host, proxy.port) if proxy else (endpoint.host, endpoint.port))
    deadline = time.monotonic() + config.connect_timeout_s
    sock = _tcp(host, port, config.connect_timeout_s)
    try:
        plain = Connection(sock)
        if endpoint.scheme == "https":
            _watch(sock, config.connect_timeout_s)
            if proxy:
                plain.until(deadline)
                _tunnel(plain, endpoint, proxy)
            plain = _secured(sock, context or config.tls_context(), endpoint.host, deadline)
        _watch(sock, config.idle_timeout_s)
        return plain
    except BaseException:
        sock.close()
        raise


def _secured(sock: socket.socket, context: ssl.SSLContext, host: str, deadline: float) -> TlsConnection:
    try:
        tls = TlsConnection(sock, context, host)
    except ValueError as exc:
        raise NetError("tls", f"{host!r} is no name that a certificate can carry: {exc}", retryable=False) from exc
    tls.until(deadline)
    tls.handshake()
    tls.until(math.inf)
    return tls


def _addresses(host: str, port: int, timeout_s: float) -> _Addresses:
    """What `host` resolves to. getaddrinfo knows no deadline, so a thread of its own waits for it; that may outlive the call."""
    answer = queue.SimpleQueue[_Addresses | OSError | UnicodeError]()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            answer.put(exc)

    with contextlib.suppress(OSError, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    threading.Thread(target=ask, name="prestage-resolve", daemon=True).start()
    try:
        found = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise NetError("dns", f"{host!r} did not resolve within {timeout_s:g} s") from None
    if isinstance(found, Exception):
        raise NetError("dns", f"{host!r} does not resolve: {found}") from found
    return found


def _tcp(host: str, port: int, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    addresses = _addresses(host, port, timeout_s)
    failure = NetError("refused", f"no address for {host!r}")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        left = (deadline - time.monotonic()) / (len(addresses) - index)
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except TimeoutError:
            sock.close()
            failure = NetError("connect-timeout", f"{host} port {port} did not answer within {timeout_s:g} s")
        except OSError as exc:
            sock.close()
            failure = NetError("refused", f"{host} port {port}: {exc.strerror or exc}")
    raise failure


def _watch(sock: socket.socket, timeout_s: float) -> None:
    seconds, fraction = divmod(timeout_s, 1)
    value = struct.pack("@ll", int(seconds), int(fraction * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


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
