"""A port in front of another that lets so many bytes a second through on each connection, as object stores do. Loopback only.

A process of its own, so that it takes nothing from the one that is measured but the cores: `python -m prestage.bench.throttle
HOST PORT BYTES_PER_S` prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BLOCK_BYTES = 256 << 10
_CONNECT_S, _END_S = 5.0, 10.0


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


async def _serve(host: str, port: int, bytes_per_s: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECT_S):
                upstream, upwards = await asyncio.open_connection(host, port, limit=_BLOCK_BYTES)
            asking = asyncio.create_task(_copy(reader, upwards, None))
            try:
                await _copy(upstream, writer, bytes_per_s)
            finally:
                asking.cancel()
                upwards.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_BLOCK_BYTES)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float | None) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    with suppress(ConnectionError):
        while data := await reader.read(_BLOCK_BYTES):
            writer.write(data)
            await writer.drain()
            if bytes_per_s is not None:
                due = max(due, loop.time() - 0.05) + len(data) / bytes_per_s
                await asyncio.sleep(max(0.0, due - loop.time()))


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
