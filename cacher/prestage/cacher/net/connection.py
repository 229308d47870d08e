"""One connection: TCP, through a proxy if there is one, with TLS if the URL says so. Blocking, one thread at a time.

The plain socket stays in blocking mode with SO_RCVTIMEO as its idle watchdog: then MSG_WAITALL fills a whole buffer in
one call (Python's own timeouts make the socket non-blocking, which turns that off). TLS runs over memory BIOs fed by
big socket reads: two calls an `ssl.SSLSocket` makes for each 16 KiB record become one for 256 KiB.

Every wait ends: a read ends with the idle timeout (`watch`), and with `until` at a date, however often a single byte drips in
(both are checked between reads, so up to one idle timeout late). While it heeds an event, it ends soon after that is set.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
import time
from typing import cast

from prestage.cacher.net.errors import NetError

TLS_READ_BYTES = 256 << 10
LOOK_S = 0.1
"""How often a wait looks whether it has been called off."""


class Connection:
    """A plain connection. `abort` may be called from any thread, the rest by one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline = math.inf
        self._idle_s = math.inf
        self._leaving: threading.Event | None = None

    def watch(self, idle_s: float) -> None:
        """From now on a read or a write fails that moves no byte for so long."""
        self._idle_s = idle_s
        seconds, fraction = divmod(idle_s, 1)
        value = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def heed(self, leaving: threading.Event | None) -> None:
        """From now on a read fails with `aborted` within `LOOK_S` of `leaving` being set. None: only `abort` ends one."""
        self._leaving = leaving

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
        if self._leaving is not None:
            self._await_byte(self._leaving)
        try:
            return self._sock.recv_into(view, len(view), socket.MSG_WAITALL if whole else 0)
        except (BlockingIOError, TimeoutError) as exc:
            raise NetError("stalled", "no byte came within the idle timeout") from exc
        except OSError as exc:
            raise NetError("reset", str(exc)) from exc

    def _await_byte(self, leaving: threading.Event) -> None:
        patience = min(time.monotonic() + self._idle_s, self._deadline)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while not poll.poll(LOOK_S * 1000):
            if leaving.is_set():
                raise NetError("aborted", "called off while it waited for an answer")
            if time.monotonic() > patience:
                raise NetError("stalled", "no byte came in time")

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
