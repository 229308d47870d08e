"""A store that is served to peers, and a peer that asks by hand."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.making import Model, content, records_of, stage

from prestage.cacher.digests import PIECE_BYTES, BlobId, piece_span, tree_digest
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.buffers import aligned_buffer

TOKEN = "a-token-for-peers"
BIG = content(2 * PIECE_BYTES + 5001, "big")
SMALL = content(5000, "small")
MODEL = Model({"big.bin": BIG, "small.bin": SMALL, "empty.bin": b""})


def name_of(data: bytes) -> BlobId:
    return tree_digest(len(data), [record.digest for record in records_of(data)])


def ingest_id(model: Model, path: str) -> str:
    return ingests.identity(model.manifest, next(file for file in model.manifest.files if file.path == path))


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Peer:
    """Asks a server by hand, one connection a question unless it is given one."""

    port: int
    token: str | None = TOKEN

    def ask(self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", timeout_s: float = 30) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            return self.ask_on(connection, path, headers, method=method)
        finally:
            connection.close()

    def ask_on(
        self, connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> Answered:
        who = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        connection.request(method, path, headers={**who, **(headers or {})})
        answer = connection.getresponse()
        return Answered(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A bare connection, with little room for what comes if so asked."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        try:
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, sock: socket.socket, path: str, *lines: str) -> None:
        """A whole request of this peer."""
        head = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}", *lines]
        sock.sendall(("\r\n".join(head) + "\r\n\r\n").encode())


def read_all(sock: socket.socket) -> bytes:
    """Until the other side closes."""
    parts = []
    while data := sock.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def put(ingest: Ingest, data: bytes, piece: int) -> None:
    """Write and journal one piece, as the engine would."""
    start, stop = piece_span(len(data), piece)
    buffer = aligned_buffer(stop - start)
    buffer[:] = data[start:stop]
    ingest.write(buffer, start)
    ingest.journal([records_of(data)[piece]])


def stocked(root: Path, model: Model = MODEL) -> None:
    with Store.open(root, own=True) as store:
        stage(store, model)


@contextmanager
def serving(root: Path, token_file: Path | None = None, **settings: Any) -> Iterator[tuple[Serving, Peer]]:
    """The store at `root`, served by two workers; `settings` are of `ServingConfig`."""
    token_file = token_file or root.parent / "token"
    if not token_file.exists():
        token_file.write_text(f"{TOKEN}\n")
    with Serving(ServingConfig(root, token_file, **settings)) as running:
        yield running, Peer(running.port)
