"""A port in front of another that lets so many bytes a second through on each connection, as object stores do. Loopback only.

A process of its own, so that it takes nothing from the one that is measured but the cores: `python -m prestage.bench.throttle
HOST PORT BYTES_PER_S` prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BLOCK_BYTES = 256 << 10
_CONNECT_S, _END_S = 5.0, 10.0
_BURST_S = 0.05
"""What a connection may catch up on."""


@contextmanager
def throttled(host: str, port: int, bytes_per_s: int) -> Iterator[int]:
    """The port to ask instead of `host:port`; answers come at `bytes_per_s` a connection."""
    argv = [sys.executable, "-m", "prestage.bench.throttle", host, str(port), str(bytes_per_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(_END_S)


def _serve(host: str, port: int, bytes_per_s: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection((host, port), timeout=_CONNECT_S)
            upstream.settimeout(None)
            for source, target, rate in ((client, upstream, None), (upstream, client, bytes_per_s)):
                threading.Thread(target=_copy, args=(source, target, rate), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, bytes_per_s: int | None) -> None:
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    due = time.monotonic()
    with suppress(OSError):
        while count := source.recv_into(buffer):
            target.sendall(buffer[:count])
            if bytes_per_s is not None:
                due = max(due, time.monotonic() - _BURST_S) + count / bytes_per_s
                time.sleep(max(0.0, due - time.monotonic()))
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    if bytes_per_s is not None:  # the other way has ended too, or ends at its next read
        source.close()
        target.close()


if __name__ == "__main__":
    threading.Thread(target=_serve, args=(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), daemon=True).start()
    sys.stdin.read()
