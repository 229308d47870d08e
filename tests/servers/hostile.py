"""An HTTP/1.1 server on raw sockets that is correct by default and wrong on demand.

    with Hostile({"/f.bin": data}) as server:
        server.faults += [Stall(after=100_000), Reset(), *storm(503, 3, retry_after="1")]   # one for each GET, in order
        server.always.append(Flip(at=7))                                                    # on every GET
        server.choose = lambda request: Drip(1e4) if request.range == (0, 1 << 24) else None  # by what is asked
        fetch(server.url("/f.bin"))
        assert server.peak_requests <= 8 and server.gets("/f.bin")[0].range == (0, 1 << 24)

Owns its threads (one per connection) and sockets; `close` ends them all within a second, stalled ones included. HEAD is
never made faulty by `faults` or `always`, only by `choose`. Attributes may be changed while it serves.
"""

from __future__ import annotations

import mmap
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from servers.answers import Answer, Ending, Request, Served, answer_for
from servers.faults import Fault, ignores_range
from servers.listening import Listening

_BURST_BYTES = 256 << 10
_HEAD_LIMIT_BYTES = 64 << 10


class Hostile:
    """See the module. `files` maps absolute paths to bytes, to a file on disk (mapped, not read) or to a `Served`.

    `name` is the host name in `url` where it is not the address (TLS names, virtual hosts).
    """

    def __init__(
        self,
        files: Mapping[str, bytes | Path | Served] | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
    ) -> None:
        self.faults: list[Fault] = []
        self.always: list[Fault] = []
        self.choose: Callable[[Request], Fault | None] = lambda request: None
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.peak_requests = 0
        self._files = dict[str, Served]()
        self._generation = 0
        self._lock = threading.Lock()
        self._active = 0
        for path, content in (files or {}).items():
            self.put(path, content)
        self._scheme = "http" if tls is None else "https"
        self._listening = Listening(self._serve, host=host, tls=tls)
        self.port = self._listening.port
        self._authority = f"{name}:{self.port}" if name else self._listening.authority

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Accepted so far."""
        return self._listening.accepted

    def url(self, path: str) -> str:
        return f"{self._scheme}://{self._authority}{path}"

    def put(self, path: str, content: bytes | Path | Served) -> None:
        """Serve `content` at `path` from now on. Bytes and files get a new strong ETag at each call."""
        with self._lock:
            self._generation += 1
            etag = f'"generation-{self._generation}"'
            self._files[path] = content if isinstance(content, Served) else Served(_bytes_of(content), etag)

    def gets(self, path: str | None = None) -> list[Request]:
        """The GETs so far, in order of arrival, of one path or of all."""
        with self._lock:
            return [r for r in self.requests if r.method == "GET" and (path is None or r.path == path)]

    def reset(self) -> None:
        """Correct again, nothing asked yet, nobody connected; the files stay."""
        self.faults.clear()
        self.always.clear()
        self.choose = lambda request: None
        self._listening.drop()
        with self._lock:
            self.requests.clear()
            self.sent_bytes = self.peak_requests = 0

    def close(self) -> None:
        self._listening.close()

    def _serve(self, connection: socket.socket, number: int) -> None:
        while (request := _read_request(connection, number)) is not None and not self._listening.stopping.is_set():
            if not self._exchange(connection, request):
                break

    def _exchange(self, connection: socket.socket, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
            self._active += 1
            self.peak_requests = max(self.peak_requests, self._active)
        try:
            return self._send(connection, self._decide(request))
        finally:
            with self._lock:
                self._active -= 1

    def _decide(self, request: Request) -> Answer:
        with self._lock:
            chosen = [fault] if (fault := self.choose(request)) else []
            if self.is_data(request):
                chosen += [*self.always, *([self.faults.pop(0)] if self.faults else [])]
        if ignores_range in chosen:
            request = replace(request, headers={k: v for k, v in request.headers.items() if k != "range"})
        answer = self._proper(request)
        for fault in chosen:
            answer = fault(request, answer)
        return answer

    def is_data(self, request: Request) -> bool:
        """It asks for bytes: what `faults` and `always` are for."""
        return request.method == "GET"

    def _proper(self, request: Request) -> Answer:
        with self._lock:
            served = self._files.get(request.path)
        return answer_for(request, served)

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        """Write `answer`; True if another request may follow on this connection."""
        if answer.wait_s and self._listening.stopping.wait(answer.wait_s):
            return False
        if answer.raw is not None:
            connection.sendall(answer.raw)
            while answer.babble and not self._listening.stopping.wait(0.001):
                connection.sendall(answer.babble)
        elif answer.send_bytes is None or answer.send_bytes >= 0:
            connection.sendall(answer.preamble + answer.head())
            self._send_body(connection, answer)
        return self._end(connection, answer.ending)

    def _send_body(self, connection: socket.socket, answer: Answer) -> None:
        body = memoryview(answer.body)[: answer.send_bytes]
        pace = _Pace(answer.rate_bytes_per_s)
        for at in range(0, len(body), pace.burst_bytes):
            part = body[at : at + pace.burst_bytes]
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if answer.chunked else part)
            with self._lock:
                self.sent_bytes += len(part)
            if pace.wait_s(at + len(part)) and self._listening.stopping.wait(pace.wait_s(at + len(part))):
                return
        if answer.chunked and answer.send_bytes is None:
            connection.sendall(b"0\r\n\r\n")

    def _end(self, connection: socket.socket, ending: Ending) -> bool:
        if ending is Ending.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while ending is Ending.HANG and not self._listening.stopping.is_set():
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and not socket.socket.recv(connection, 1, socket.MSG_PEEK):
                break
        return ending is Ending.KEEP


@dataclass(frozen=True, slots=True)
class _Pace:
    """When the next burst is due at a rate; started when made. Bursts are a twentieth of a second's worth."""

    rate_bytes_per_s: float | None
    _started_s: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "_started_s", time.monotonic())

    @property
    def burst_bytes(self) -> int:
        return _BURST_BYTES if self.rate_bytes_per_s is None else max(1, min(_BURST_BYTES, int(self.rate_bytes_per_s / 20)))

    def wait_s(self, sent_bytes: int) -> float:
        if self.rate_bytes_per_s is None:
            return 0
        return max(0.0, self._started_s + sent_bytes / self.rate_bytes_per_s - time.monotonic())


def _bytes_of(content: bytes | Path) -> bytes | memoryview:
    if isinstance(content, bytes):
        return content
    with content.open("rb") as file:
        if content.stat().st_size == 0:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_request(connection: socket.socket, number: int) -> Request | None:
    """The next request head, None at the end of the connection. Bodies are read and dropped."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(_HEAD_LIMIT_BYTES)
        if not part or len(head) > _HEAD_LIMIT_BYTES:
            return None
        head += part
    head, _, rest = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    left = int(headers.get("content-length", "0")) - len(rest)
    while left > 0 and (part := connection.recv(min(left, _HEAD_LIMIT_BYTES))):
        left -= len(part)
    return Request(method, target, headers, number, time.monotonic())
