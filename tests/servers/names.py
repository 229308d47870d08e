"""A DNS server for one test: answers A queries by what a function says at that moment, everything else with nothing.

    with Names(answer=lambda name: ["127.0.0.1"], host="127.53.53.53") as names:
        names.asked        # ["rebind.example", ...]: A queries only, in order

UDP only, TTL 0, names of any case. Port 53 needs root.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

_A, _IN = 1, 1


class Names:
    """See the module."""

    def __init__(self, answer: Callable[[str], Sequence[str]], *, host: str = "127.53.53.53", port: int = 53) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._socket.settimeout(0.05)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="names")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                query, client = self._socket.recvfrom(4096)
                self._socket.sendto(self._reply(query), client)

    def _reply(self, query: bytes) -> bytes:
        name, end = _name(query)
        kind, _ = struct.unpack_from("!HH", query, end)
        question = query[12 : end + 4]
        addresses: Sequence[str] = ()
        if kind == _A:
            self.asked.append(name)
            addresses = self._answer(name)
        head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(addresses), 0, 0)
        rows = [struct.pack("!HHHIH", 0xC00C, _A, _IN, 0, 4) + socket.inet_aton(address) for address in addresses]
        return head + question + b"".join(rows)


def _name(query: bytes) -> tuple[str, int]:
    labels, at = list[str](), 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1
