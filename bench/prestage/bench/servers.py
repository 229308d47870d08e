"""Servers of one blob that are compared: ours, nginx, aiohttp. Each is a tree of processes on a port of 127.0.0.1."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prestage.bench import machine
from prestage.bench.rivals.ports import Unfit
from prestage.cacher.digests import BlobId
from prestage.cacher.errors import Unavailable
from prestage.cacher.store.layout import Layout

OURS = "prestage"
_START_S = 20.0
_STOP_S = 10.0
_NGINX = """
daemon off;
worker_processes {workers};
pid {state}/nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    sendfile_max_chunk 2m;
    tcp_nopush on;
    client_body_temp_path {state}/body;
    proxy_temp_path {state}/proxy;
    fastcgi_temp_path {state}/fastcgi;
    uwsgi_temp_path {state}/uwsgi;
    scgi_temp_path {state}/scgi;
    server {{ listen 127.0.0.1:{port}; root {docroot}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """What they all serve, and with how much."""

    root: Path
    """The store."""
    blob: BlobId
    workers: int
    state: Path
    """An empty folder for configurations."""

    @property
    def file(self) -> Path:
        """The blob's bytes."""
        return Layout(self.root).blob(self.blob)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    pids: tuple[int, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the client: its token."""


@contextmanager
def prestage(served: Served) -> Iterator[Running]:
    """Ours, alone on the store."""
    token, file = secrets.token_hex(16), served.state / "token"
    file.write_text(f"{token}\n")
    command = [sys.executable, "-m", "prestage.cacher.serving", "--root", str(served.root), "--token-file", str(file)]
    with _process([*command, "--workers", str(served.workers)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Unavailable("our server did not start", hint="its own words are above")
        url = f"http://127.0.0.1:{json.loads(line)['port']}/v1/blobs/{served.blob}"
        yield Running(url, _tree(process.pid), _python(), {"PRESTAGE_BENCH_TOKEN": token})


@contextmanager
def nginx(served: Served) -> Iterator[Running]:
    """nginx with sendfile and as many workers."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if found is None:
        raise Unfit("nginx is not installed")
    port, config = _free_port(), served.state / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not read the store
    config.write_text(_NGINX.format(workers=served.workers, state=served.state, user=user, port=port, docroot=served.file.parent))
    with _process([found, "-e", "stderr", "-p", str(served.state), "-c", str(config)]) as process:
        _await(port, process)
        told = subprocess.run([found, "-v"], capture_output=True, text=True, timeout=10, check=False)
        version = (told.stderr or told.stdout).strip().removeprefix("nginx version: ")
        yield Running(f"http://127.0.0.1:{port}/{served.file.name}", _tree(process.pid), version)


@contextmanager
def aiohttp(served: Served) -> Iterator[Running]:
    """aiohttp's FileResponse in as many processes."""
    import aiohttp as library

    port = _free_port()
    command = [sys.executable, "-m", "prestage.bench.fileserver", str(served.file), "--port", str(port)]
    with ExitStack() as running:
        processes = [running.enter_context(_process(command)) for _ in range(served.workers)]
        for process in processes:
            _await(port, process)
            while process.pid not in machine.listeners(port):
                time.sleep(0.02)
        pids = tuple(process.pid for process in processes)
        yield Running(f"http://127.0.0.1:{port}/file", pids, f"aiohttp {library.__version__}, {_python()}")


SERVERS: Mapping[str, Callable[[Served], AbstractContextManager[Running]]] = {OURS: prestage, "nginx": nginx, "aiohttp": aiohttp}


@contextmanager
def _process(command: list[str], *, stdout: int | None = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    # In a session of its own: Ctrl-C is for us, who end it.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Unavailable("a server that was to be measured did not start", hint="its own words are above")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _tree(pid: int) -> tuple[int, ...]:
    """A process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return tuple(found)


def _python() -> str:
    return f"Python {platform.python_version()}"
