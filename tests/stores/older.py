"""Stores as older versions of Prestage left them, killed at work: kept as archives, made from the history by

    PYTHONPATH=tests:cacher python -m stores.older [VERSION]

which runs that commit's own code, its command, or its agent where it had one, on the repositories of a hub. A transfer belongs
to its origin, so the hub is found where it was: at an address of loopback that is the version's own.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from agents.contract import UnixConnection
from bringing import write_folder

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.store.format import filesystem_identity
from servers.hub import Hub

VERSIONS = {"0.1.0": "192cd18", "0.1.0+agent": "f001398"}
"""By the commit that was the last of it; the second is the first with an agent."""
ARCHIVES = Path(__file__).parent / "older"
HOUSE = Path(__file__).parents[2]
PACKAGES = ("cacher", "bench", "loader-lib", "daemonset")
HELD, CUT_OFF = "hf://org/held@main", "hf://org/cut@main"
"""What is staged and pinned, and what was cut off in its second piece."""
_PORT = 17763
_RATE = 8 << 20
_MIDWAY = PIECE_BYTES + (12 << 20)
"""A piece is whole, and the second is over after which the journal is written."""


def content(size_bytes: int, seed: int) -> bytes:
    """No two blocks are equal, yet it takes little room in an archive."""
    noise = random.Random(seed).randbytes(4000)
    blocks = (number.to_bytes(8, "big") + noise for number in range(-(-size_bytes // 4008)))
    return b"".join(blocks)[:size_bytes]


FILES = {
    "org/held": {"config.json": b'{"a": 1}', "sub/model.safetensors": content(300_001, 1), "empty": b""},
    "org/cut": {"config.json": b'{"b": 2}', "model.safetensors": content(3 * PIECE_BYTES + 4321, 2)},
}


@contextmanager
def hub_of(version: str, folder: Path) -> Iterator[Hub]:
    """With FILES, where the archive of that version has it."""
    for repository, files in FILES.items():
        write_folder(folder / repository, files)
    with Hub(folder, host=f"127.77.0.{1 + list(VERSIONS).index(version)}", port=_PORT) as hub:
        yield hub


def unpacked(version: str, folder: Path) -> Path:
    """The store that `version` left."""
    with lzma.open(ARCHIVES / f"{version}.tar.xz") as compressed, tarfile.open(fileobj=compressed) as archive:
        archive.extractall(folder, filter="tar")
    root = folder / "store"
    stated = json.loads((root / "format").read_text())
    (root / "format").write_text(json.dumps({**stated, **filesystem_identity(root)}))  # as if it had been made here
    return root


def _packed(version: str, root: Path) -> None:
    ARCHIVES.mkdir(exist_ok=True)
    with (
        lzma.open(ARCHIVES / f"{version}.tar.xz", "wb", preset=9) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        archive.add(root, "store")  # sockets are left out


def _command(root: Path, code: Path, hub: Hub, *words: str) -> subprocess.Popen[str]:
    path = ":".join(str(code / package) for package in PACKAGES)
    environ = {**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": hub.endpoint, "PRESTAGE_ROOT": str(root), "NO_COLOR": "1"}
    return subprocess.Popen([sys.executable, "-m", "prestage.cacher.cli", *words], stdout=subprocess.PIPE, text=True, env=environ)


def _done(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0, process.args


def _asked(socket: Path, method: str, path: str, body: object = None) -> object:
    connection = UnixConnection(socket)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _is_midway(stages: object) -> bool:
    assert isinstance(stages, list)
    return any(stage["ref"] == CUT_OFF and stage["bytes"] > _MIDWAY for stage in stages)


def _by_an_agent(root: Path, code: Path, hub: Hub) -> None:
    socket = root / "agent.sock"
    agent = _command(root, code, hub, "agent", f"--rate={_RATE}", "--connections=1", "--listen=127.0.0.1:0")
    try:
        _until(lambda: _asked(socket, "GET", "/v1/status"))
        _done(_command(root, code, hub, "stage", HELD))
        _done(_command(root, code, hub, "pin", HELD))
        _asked(socket, "POST", "/v1/stages", {"ref": CUT_OFF, "keep": True})
        _until(lambda: _is_midway(_asked(socket, "GET", "/v1/stages")))
    finally:
        agent.kill()
        agent.wait()


def _by_commands(root: Path, code: Path, hub: Hub) -> None:
    _done(_command(root, code, hub, "stage", HELD))
    _done(_command(root, code, hub, "pin", HELD))
    process = _command(root, code, hub, "stage", CUT_OFF, f"--rate={_RATE}", "--connections=1", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["bytes"] > _MIDWAY:
            break
    process.kill()
    process.communicate()


def _until(look: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            if look():
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.02)
    raise AssertionError("not so within a minute")


def make(version: str) -> None:
    """Writes its archive."""
    with tempfile.TemporaryDirectory() as name:
        code, root = Path(name) / "code", Path(name) / "store"
        code.mkdir()
        command = ["git", "-C", str(HOUSE), "archive", VERSIONS[version], *PACKAGES]
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        with hub_of(version, Path(name) / "hub") as hub:
            by = _by_an_agent if (code / "cacher/prestage/cacher/agent").is_dir() else _by_commands
            by(root, code, hub)
        _packed(version, root)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or VERSIONS:
        make(wanted)
