"""A hundred thousand small artifacts, each staged and evicted once, through one agent: nothing may grow.

    make cycles               CYCLES=10000 for a tenth of it
    python -m agents.cycles   the same, with cacher and tests on PYTHONPATH

Every artifact is another one: what is remembered by ref, artifact or blob would show. No faults and no pressure: see `soak`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agents import Agent
from agents.contract import UnixConnection
from agents.growth import Growth
from servers.listening import Listening

CLIENTS = 8
SAMPLES = 100
SPARES = {"rss_mb": 3.0, "descriptors": 8, "threads": 8, "inodes": 300, "wishes": 8}


def content(path: str) -> bytes:
    """What the origin has at `path`: some 2 kB, another for each."""
    return f"{path}\n".encode() * 250


def answer(connection: socket.socket, _number: int) -> None:
    """An origin that has everything: HEAD and GET, whole or by range, connections kept."""
    raw = bytearray()
    while received := connection.recv(65536):
        raw += received
        while (end := raw.find(b"\r\n\r\n")) >= 0:
            head, raw = raw[:end].decode("latin-1"), raw[end + 4 :]
            connection.sendall(_answered(head))


def _answered(head: str) -> bytes:
    method, path, _ = head.partition("\r\n")[0].split(" ")
    data = content(path)
    lines = [f'ETag: "{path[1:]}"', "Accept-Ranges: bytes"]
    status, body = "200 OK", data
    if "\r\nrange: bytes=" in head.lower():
        first, _, last = head.lower().partition("\r\nrange: bytes=")[2].partition("\r\n")[0].partition("-")
        body = data[int(first) : int(last) + 1]
        status, lines = "206 Partial Content", [*lines, f"Content-Range: bytes {first}-{last}/{len(data)}"]
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if method == "GET" else b"")


class Cycles:
    """`count` of them through `agent`."""

    def __init__(self, agent: Agent, origin: str, *, count: int) -> None:
        self.agent, self.growth, self.count = agent, Growth(agent), count
        self._origin = origin
        self._numbers = itertools.count()
        self._done = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """All of them; raises what a client found wrong."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._client) for _ in range(CLIENTS)]
            next_look = 0
            while not all(client.done() for client in clients):
                if self._done >= next_look:
                    self.growth.look(self._done)
                    next_look += self.count // SAMPLES
                time.sleep(0.05)
            for client in clients:
                client.result()
        self.growth.look(self._done)

    def _client(self) -> None:
        connection = UnixConnection(self.agent.socket)
        try:
            while (number := next(self._numbers)) < self.count:
                self._cycle(connection, f"{self._origin}/{number}")
                with self._lock:
                    self._done += 1
        finally:
            connection.close()

    def _cycle(self, connection: http.client.HTTPConnection, ref: str) -> None:
        events = self._ask(connection, "/v1/stage", ref)
        assert events[-1]["event"] == "done", events
        assert events[-1]["bytes"] == len(content(f"/{ref.rpartition('/')[2]}"))
        (evicted,) = self._ask(connection, "/v1/evict", ref)
        assert evicted["artifact"] == events[-1]["artifact"]

    def _ask(self, connection: http.client.HTTPConnection, path: str, ref: str) -> list[dict[str, Any]]:
        connection.request("POST", path, body=json.dumps({"ref": ref}))
        response = connection.getresponse()
        raw = response.read()
        assert response.status == 200, (ref, raw)
        return [json.loads(line) for line in raw.splitlines()]

    def check(self) -> None:
        """Nothing has grown, nothing is left."""
        self.growth.check(SPARES)
        assert self._done == self.count
        folders = ("ingest", "manifests", "refs", "views", "wishes", "holds", "quarantine")
        left = [path for folder in folders for path in (self.agent.root / folder).iterdir()]
        left += (self.agent.root / "blobs").glob("*/*")
        assert left == [], left[:10]


def cycles(folder: Path, *, count: int) -> Cycles:
    """Run and check; the table is in what is returned."""
    with Listening(answer) as origin, Agent(folder / "store") as agent:
        run = Cycles(agent, f"http://{origin.authority}", count=count)
        run.run()
        run.check()
    return run


def main() -> None:
    """CYCLES of them (default 100000), in a folder of its own under SOAK_DIR (default here)."""
    count = int(os.environ.get("CYCLES", "100000"))
    print(f"{CLIENTS} clients, {count} cycles", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".soak-", dir=os.environ.get("SOAK_DIR", ".")) as folder:
        print(cycles(Path(folder).absolute(), count=count).growth.table())


if __name__ == "__main__":
    main()
