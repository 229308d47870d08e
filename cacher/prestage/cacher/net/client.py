"""The client: sends one request, hands the body over on the wire, keeps connections that are still good.

It follows redirects only for small answers (`fetch`) and retries nothing but one case: an idle connection that the
server closed before it read our request says nothing about the request, so that one is sent again on a fresh one.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
import urllib.parse
import zlib

from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.connection import Connection
from prestage.cacher.net.dialing import Dialer, Endpoint
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.head import END, MAX_HEAD_BYTES, MAX_HEADERS, Framing, chunk_size, parse_head
from prestage.cacher.net.policy import ANYWHERE, AddressPolicy
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead

MAX_IDLE_PER_ENDPOINT = 32
MAX_IDLE = 64
"""Over all endpoints; the longest unused go first: who has met thousands of hosts does not stay connected to them."""
MAX_INTERIM = 8
"""Interim (1xx) answers before the real one; servers send one or two."""
_READ_BYTES = 64 << 10
_HEAD_READ_BYTES = 4 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_DROPPED_ON_OTHER_ORIGIN = ("authorization", "cookie", "x-amz-security-token")


class HttpBody:
    """A body on its connection; see `net.ports.Body`. `abort` may be called from any thread."""

    def __init__(self, client: HttpClient, endpoint: Endpoint, connection: Connection, ahead: bytes) -> None:
        self._client, self._endpoint, self._connection = client, endpoint, connection
        self._ahead, self._at = ahead, 0
        self._scratch: memoryview | None = None
        self._left: int | None = None
        self._chunked = False
        self._ended = False
        self._reusable = False
        self._closed = False
        self._lock = threading.Lock()
        self._failure: NetError | None = None
        self._waited_s, self._came = 0.0, 0
        self.head = ResponseHead(0, {})
        self.length: int | None = None

    def frame(self, head: ResponseHead, framing: Framing, *, has_body: bool) -> None:
        """Take the head that was just read; the bytes behind it are the body."""
        self.head, self.length = head, framing.length if has_body else 0
        self._chunked = framing.chunked and has_body
        self._left = 0 if self._chunked else self.length
        self._reusable = framing.keep_alive
        self._ended = self.length == 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` or reach the end. A failure after some bytes hands those over first: the next call raises it."""
        if self._failure is not None:
            raise self._failure
        done = 0
        try:
            while done < len(buffer) and not self._ended:
                done += self._some(buffer[done:])
        except NetError as exc:
            self._ended, self._reusable, self._failure = False, False, exc
            if not done:
                raise
        return done

    def read_some(self, buffer: memoryview) -> int:
        """At least one byte, as soon as it is there; 0 at the end."""
        count = 0
        while not count and not self._ended:
            count = self._some(buffer, whole=False)
        return count

    def _some(self, view: memoryview, *, whole: bool = True) -> int:
        if self._chunked and self._left == 0:
            self._next_chunk()
            return 0
        wanted = view if self._left is None else view[: self._left]
        count = self._receive(wanted, whole=whole and self._left is not None)
        if not count:
            self._end_by_close()
        elif self._left is not None:
            self._left -= count
            self._ended = self._left == 0 and not self._chunked
        return count

    def _end_by_close(self) -> None:
        self._ended, self._reusable = True, False
        if self._left is not None or self._chunked:
            raise NetError("short", f"the body ended {self._left or 'some'} bytes early")

    def _receive(self, view: memoryview, *, whole: bool) -> int:
        if self._chunked and len(view) < _READ_BYTES and self._at == len(self._ahead):
            self._look_ahead()
        if count := min(len(view), len(self._ahead) - self._at):
            view[:count] = self._ahead[self._at : self._at + count]
            self._at += count
            return count
        return self._from_wire(view, whole=whole)

    def _from_wire(self, view: memoryview, *, whole: bool) -> int:
        """Time spent here is the server's: what the caller does between two reads does not make a body slow."""
        config = self._client.config
        if self._waited_s > config.slow_timeout_s:
            if self._came < config.slow_bytes_per_s * self._waited_s:
                raise NetError("stalled", f"{self._came} bytes in {self._waited_s:.0f} s")
            self._waited_s, self._came = 0.0, 0
        began_s = time.monotonic()
        count = self._connection.recv_into(view, whole=whole)
        self._waited_s += time.monotonic() - began_s
        self._came += count
        return count

    def _look_ahead(self) -> int:
        """Small chunks and the lines between them come in one read of many."""
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_READ_BYTES))
        count = self._from_wire(self._scratch, whole=False)
        self._ahead, self._at = self._ahead[self._at :] + bytes(self._scratch[:count]), 0
        return count

    def _next_chunk(self) -> None:
        line = self._line()
        if not line and self._left == 0:
            line = self._line()
        self._left = chunk_size(line)
        if self._left == 0:
            for _ in range(MAX_HEADERS):
                if not self._line():
                    self._ended = True
                    return
            raise NetError("garbage", f"more than {MAX_HEADERS} trailers")

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n", self._at)) < 0:
            if len(self._ahead) - self._at > MAX_HEAD_BYTES or not self._look_ahead():
                raise NetError("garbage", "a chunked body without a proper end")
        line, self._at = self._ahead[self._at : end], end + 2
        return line

    def heed(self, leaving: threading.Event | None) -> None:
        """Reads of this body end soon after `leaving` is set; for small ones: each read looks first."""
        self._connection.heed(leaving)

    def abort(self) -> None:
        """Make a blocked `readinto` fail now; the connection is lost. After `close` it may be another body's: left alone."""
        with self._lock:
            if not self._closed:
                self._reusable = False
                self._connection.abort()

    def close(self) -> None:
        """Keep the connection if the body was read to its end and nothing follows it, else drop it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._ended and self._reusable and self._at == len(self._ahead):
            self._connection.heed(None)
            self._client.keep(self._endpoint, self._connection)
        else:
            self._connection.close()


class HttpClient:
    """See `net.ports.Client`. Thread-safe. `close` drops the idle connections.

    One client for each policy: what it keeps open was checked by that one.
    """

    def __init__(self, config: NetConfig | None = None, policy: AddressPolicy = ANYWHERE) -> None:
        self.config = config or NetConfig()
        self.policy = policy
        self._dialer = Dialer(self.config, policy)
        self._context: ssl.SSLContext | None = None
        self._idle: dict[Endpoint, list[Connection]] = {}
        """By endpoint, the last one used last; none is empty."""
        self._lock = threading.Lock()
        self._closed = False

    def open(self, request: HttpRequest, leaving: threading.Event | None = None) -> HttpBody:
        """Send and read the head; the body stays on the wire. Refuses answers that are not HTTP. See `net.ports.Client.open`."""
        endpoint, raw = self._compose(request)
        while (connection := self._reuse(endpoint)) is not None:
            try:
                connection.heed(leaving)
                return self._exchange(endpoint, connection, raw, request.method)
            except NetError as exc:
                if exc.reason != "reset":
                    raise
        connection = self._dialer.connect(endpoint, self._tls(endpoint), leaving)
        return self._exchange(endpoint, connection, raw, request.method)

    def fetch(
        self,
        request: HttpRequest,
        *,
        limit_bytes: int = 64 << 20,
        redirects: int = 5,
        timeout_s: float = 60,
        leaving: threading.Event | None = None,
    ) -> Reply:
        """A small answer, whole. See `net.ports.Client.fetch`."""
        deadline = time.monotonic() + timeout_s
        while True:
            body = self.open(request, leaving)
            try:
                location = body.head.headers.get("location")
                if body.head.status in _REDIRECTS and location and redirects > 0:
                    redirects -= 1
                    request = redirected(request, location)
                    continue
                if body.head.status in _REDIRECTS and location and redirects == 0:
                    raise NetError("redirects", "too many redirects: a loop?", retryable=False)
                body.heed(leaving)
                raw = _drain(body, limit_bytes, deadline)
                return Reply(body.head, _decoded(body.head, raw, limit_bytes), request.url)
            finally:
                body.close()

    def keep(self, endpoint: Endpoint, connection: Connection) -> None:
        """Take back a connection whose last body was read to its end."""
        with self._lock:
            dropped = [connection] if self._closed else self._kept(endpoint, connection)
        for one in dropped:
            one.close()

    def _kept(self, endpoint: Endpoint, connection: Connection) -> list[Connection]:
        """Those that are too many by now."""
        group = self._idle.pop(endpoint, [])
        self._idle[endpoint] = group
        if len(group) >= MAX_IDLE_PER_ENDPOINT:
            return [connection]
        group.append(connection)
        if sum(map(len, self._idle.values())) <= MAX_IDLE:
            return []
        oldest, others = next(iter(self._idle.items()))
        dropped = others.pop(0)
        if not others:
            del self._idle[oldest]
        return [dropped]

    def close(self) -> None:
        """Drop the idle connections; those in use are dropped when their body closes."""
        with self._lock:
            self._closed = True
            idle = [connection for group in self._idle.values() for connection in group]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _reuse(self, endpoint: Endpoint) -> Connection | None:
        while True:
            with self._lock:
                group = self._idle.get(endpoint)
                if not group:
                    return None
                connection = group.pop()
                if not group:
                    del self._idle[endpoint]
            if not connection.is_stale():
                return connection
            connection.close()

    def _tls(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if endpoint.scheme != "https":
            return None
        with self._lock:
            if self._context is None:
                self._context = self.config.tls_context()
            return self._context

    def _compose(self, request: HttpRequest) -> tuple[Endpoint, bytes]:
        try:
            parts = urllib.parse.urlsplit(request.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise NetError("garbage", "the URL's host or port cannot be read", retryable=False) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NetError("garbage", f"cannot request a {parts.scheme or 'relative'} URL", retryable=False)
        endpoint = Endpoint(parts.scheme, parts.hostname, port, request.connect_to)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": self.config.user_agent, **request.headers}
        proxy = None if request.connect_to else self.config.proxy_for(parts.scheme, parts.hostname)
        if proxy and parts.scheme == "http":
            target = f"http://{headers['Host']}{target}"
            if proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
        lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise NetError("garbage", "a line break in a URL or header", retryable=False)
        try:
            return endpoint, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        except UnicodeEncodeError as exc:
            raise NetError("garbage", "a URL or header that is not Latin-1", retryable=False) from exc

    def _exchange(self, endpoint: Endpoint, connection: Connection, raw: bytes, method: str) -> HttpBody:
        try:
            connection.until(time.monotonic() + self.config.slow_timeout_s)
            connection.send(raw)
            head, framing, ahead = _read_head(connection)
            for _ in range(MAX_INTERIM):
                if head.status >= 200:
                    break
                head, framing, ahead = _read_head(connection, ahead)
            else:
                raise NetError("garbage", f"more than {MAX_INTERIM} interim answers")
            connection.until(math.inf)
            connection.heed(None)
            body = HttpBody(self, endpoint, connection, ahead)
            body.frame(head, framing, has_body=method != "HEAD")
            return body
        except BaseException:
            connection.close()
            raise


def redirected(request: HttpRequest, location: str) -> HttpRequest:
    """The request that follows a redirect; credentials stay behind when the origin (scheme, host, port) changes.

    Raises:
        NetError: `redirects`, to somewhere we do not go.
    """
    try:
        url = urllib.parse.urljoin(request.url, location)
        old, new = urllib.parse.urlsplit(request.url), urllib.parse.urlsplit(url)
        same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
    except ValueError as exc:
        raise NetError("redirects", "to something that is not a URL", retryable=False) from exc
    if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
        raise NetError("redirects", f"from {old.scheme} to {new.scheme} is refused", retryable=False)
    dropped = () if same else _DROPPED_ON_OTHER_ORIGIN
    headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
    return HttpRequest(url.partition("#")[0], headers, request.method, request.connect_to if same else None)


def _read_head(connection: Connection, ahead: bytes = b"") -> tuple[ResponseHead, Framing, bytes]:
    raw = bytearray(ahead)
    scratch = memoryview(bytearray(_HEAD_READ_BYTES))
    while (end := raw.find(END)) < 0:
        if len(raw) > MAX_HEAD_BYTES:
            raise NetError("garbage", f"a head of more than {MAX_HEAD_BYTES} bytes")
        count = connection.recv_into(scratch, whole=False)
        if not count:
            if raw:
                raise NetError("garbage", f"closed within the head: {bytes(raw[:60])!r}")
            raise NetError("reset", "closed without an answer")
        raw += scratch[:count]
    if end > MAX_HEAD_BYTES:
        raise NetError("garbage", f"a head of more than {MAX_HEAD_BYTES} bytes")
    head, framing = parse_head(bytes(raw[:end]))
    return head, framing, bytes(raw[end + len(END) :])


def _drain(body: HttpBody, limit_bytes: int, deadline: float) -> bytes:
    out = bytearray()
    buffer = memoryview(bytearray(_READ_BYTES))
    while count := body.read_some(buffer):
        out += buffer[:count]
        if len(out) > limit_bytes:
            raise NetError("too-large", f"an answer of more than {limit_bytes} bytes", retryable=False)
        if time.monotonic() > deadline:
            raise NetError("stalled", "the answer was not whole in time")
    return bytes(out)


def _decoded(head: ResponseHead, raw: bytes, limit_bytes: int) -> bytes:
    coding = head.headers.get("content-encoding", "identity").lower()
    if coding in ("identity", ""):
        return raw
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise NetError("garbage", f"unknown content coding {coding[:40]!r}")
    try:
        inflater = zlib.decompressobj(wbits=47)
        out = inflater.decompress(raw, limit_bytes)
    except zlib.error as exc:
        raise NetError("garbage", f"a broken {coding} body: {exc}") from exc
    if inflater.unconsumed_tail:
        raise NetError("too-large", f"an answer of more than {limit_bytes} bytes", retryable=False)
    if raw and not inflater.eof:
        raise NetError("garbage", f"a {coding} body that ends too early")
    return out
