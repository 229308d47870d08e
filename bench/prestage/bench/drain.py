"""A client that costs next to nothing: `python -m prestage.bench.drain URL --connections N` drops bodies inside the kernel.

recv with MSG_TRUNC frees what came without copying it (tcp(7)), so that what is measured is the server. Connects first, then all
connections ask at once. Prints one JSON line: {"bytes": …, "seconds": …, "cpu_s": …}; a body that ends early, or an answer other
than 200, is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse

_WINDOW_BYTES = 1 << 20
_TIMEOUT_S = 120


class Drainer(threading.Thread):
    """One connection: one request, its body dropped."""

    def __init__(self, url: str, token: str, ready: threading.Barrier) -> None:
        super().__init__(daemon=True)
        parts = urllib.parse.urlsplit(url)
        self._sock = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=_TIMEOUT_S)
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {token}", "Connection: close"]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._ready = ready
        self.taken = 0
        self.error: str | None = None

    def run(self) -> None:
        """Until the body ends."""
        self._ready.wait()
        try:
            with self._sock:
                self._sock.settimeout(None)  # blocking: one system call a window instead of two
                self._sock.sendall(self._request)
                self._drain()
        except OSError as exc:
            self.error = str(exc)

    def _drain(self) -> None:
        window = bytearray(_WINDOW_BYTES)
        raw = b""
        while (end := raw.find(b"\r\n\r\n")) < 0:
            data = self._sock.recv(4096)
            if not data:
                self.error = "closed before the end of the head"
                return
            raw += data
        length = re.search(rb"(?im)^content-length: *([0-9]+)", raw[:end])
        if not raw.startswith(b"HTTP/1.1 200") or length is None:
            self.error = raw[:60].decode("latin-1")
            return
        self.taken, wanted = len(raw) - end - 4, int(length.group(1))
        while self.taken < wanted:
            count = self._sock.recv_into(window, 0, socket.MSG_TRUNC)
            if not count:
                self.error = f"the body ended {wanted - self.taken} bytes early"
                return
            self.taken += count


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args()
    ready = threading.Barrier(given.connections + 1)
    drainers = [Drainer(given.url, os.environ.get("PRESTAGE_BENCH_TOKEN", ""), ready) for _ in range(given.connections)]
    for drainer in drainers:
        drainer.start()
    ready.wait()
    began = time.perf_counter()
    for drainer in drainers:
        drainer.join()
    seconds = time.perf_counter() - began
    if errors := [drainer.error for drainer in drainers if drainer.error]:
        sys.exit(f"{len(errors)} of {given.connections} connections failed: {errors[0]}")
    print(json.dumps({"bytes": sum(one.taken for one in drainers), "seconds": seconds, "cpu_s": time.process_time()}))  # noqa: T201


if __name__ == "__main__":
    main()
