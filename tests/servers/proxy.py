"""A forward proxy on raw sockets: CONNECT tunnels and absolute-form requests, with Basic credentials where wanted.

    with Proxy(user="u", password="p") as proxy:
        proxy.url                 # http://u:p@127.0.0.1:PORT, what HTTP_PROXY takes
        proxy.asked               # ["CONNECT h:443", "GET http://h/f"] of those let through
        proxy.refused             # how many came with wrong or no credentials

Relays bytes both ways until either side ends; one request for each connection in absolute form. Loopback targets only
are reached because tests ask for nothing else; `reroute` maps a host name to a port on loopback.
"""

from __future__ import annotations

import base64
import select
import socket
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from servers.listening import Listening


class Proxy:
    """See the module."""

    def __init__(self, *, user: str | None = None, password: str = "", host: str = "127.0.0.1") -> None:
        self.asked: list[str] = []
        self.refused = 0
        self.status: int | None = None
        """Answer every CONNECT and request with this status instead of relaying it."""
        self.reroute: dict[str, int] = {}
        pair = f"{user}:{password}"
        self._expected = None if user is None else f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._listening = Listening(self._serve, host=host)
        self.port = self._listening.port
        self.url = f"http://{'' if user is None else pair + '@'}{self._listening.authority}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._listening.close()

    def _serve(self, client: socket.socket, number: int) -> None:
        head, rest = _read_head(client)
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if self._expected not in (None, fields.get("proxy-authorization")):
            self.refused += 1
            _answer(client, "407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="test"\r\n')
        elif self.status is not None:
            _answer(client, f"{self.status} As Told")
        else:
            self._forward(client, lines, rest)

    def _forward(self, client: socket.socket, lines: list[str], rest: bytes) -> None:
        method, target, version = lines[0].split(" ", 2)
        self.asked.append(f"{method} {target}")
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            upstream = self._connect(url.hostname or "", url.port or 80)
        except OSError:
            _answer(client, "502 Bad Gateway")
            return
        with upstream:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")
            else:
                kept = [line for line in lines[1:] if not line.lower().startswith(("proxy-", "connection:"))]
                origin_form = f"{method} {url.path or '/'}{'?' + url.query if url.query else ''} {version}"
                upstream.sendall("\r\n".join([origin_form, "Connection: close", *kept]).encode("latin-1") + b"\r\n\r\n")
            upstream.sendall(rest)
            self._relay(client, upstream)

    def _connect(self, host: str, port: int) -> socket.socket:
        if host in self.reroute:
            host, port = "127.0.0.1", self.reroute[host]
        return socket.create_connection((host, port), timeout=5)

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        upstream.settimeout(None)
        other = {client: upstream, upstream: client}
        while not self._listening.stopping.is_set():
            for side in select.select([client, upstream], [], [], 0.05)[0]:
                part = side.recv(256 << 10)
                if not part:
                    return
                other[side].sendall(part)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(65536)
        if not part:
            raise ConnectionError("left before the end of the head")
        head += part
    before, _, rest = head.partition(b"\r\n\r\n")
    return before, rest


def _answer(client: socket.socket, status: str, headers: str = "") -> None:
    client.sendall(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
