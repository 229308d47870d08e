"""A client that is not us: uid 1000 without capabilities or network, on a read-only bind mount that only it sees.

    root (the test) > unshare: mounts private, no network > strace > setpriv: uid 1000 > the client

It sees the tree at one path and nothing else of the store, and cannot fetch anything. Every call that names a path is traced, so
that attempts to write below the tree are counted and not only their failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

UID = 1000
_WRITES = re.compile(
    r"^(?:\[pid\s+\d+\]\s+|\d+\s+)?(?:"
    r"open(?:at2?)?\(.*O_(?:WRONLY|RDWR|CREAT|TRUNC)"
    r"|creat\(|mkdir(?:at)?\(|mknod(?:at)?\(|rmdir\(|unlink(?:at)?\(|rename(?:at2?)?\(|link(?:at)?\(|symlink(?:at)?\("
    r"|truncate\(|f?chmod(?:at2?)?\(|l?chown\(|fchownat\(|utime|l?setxattr\(|l?removexattr\("
    r"|f?accessat2?\(.*W_OK|access\(.*W_OK)"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client said, and what it tried."""

    said: Any
    """Its standard output, as JSON."""
    err: str
    tree: Path
    """Where it saw the tree."""
    traced: int
    """Calls that named a path in the tree."""
    writes: tuple[str, ...]
    """Those of them that would change it."""


@contextmanager
def _places() -> Iterator[tuple[Path, Path]]:
    """An empty directory to mount on and a home, both where any uid may come."""
    top = Path(tempfile.mkdtemp(prefix="prestage-foreign-"))
    top.chmod(0o755)
    try:
        mount, home = top / "models", top / "home"
        mount.mkdir()
        home.mkdir()
        os.chown(home, UID, UID)
        yield mount, home
    finally:
        shutil.rmtree(top)


def _check(python: Path) -> None:
    for tool in ("unshare", "setpriv", "strace", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0 or subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and private namespaces (unshare -mn)")
    argv = ["setpriv", f"--reuid={UID}", "--clear-groups", str(python), "-c", ""]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip(f"uid {UID} cannot run {python}: a folder above it is closed to others")


def run(tree: Path, script: str, *, python: Path, timeout_s: float = 60) -> Seen:
    """Run `script` with the tree at $TREE and HF_HUB_OFFLINE=1; it must end well and print one JSON document."""
    _check(python)
    with _places() as (mount, home):
        trace = home.parent / "trace"
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "TREE": str(mount),
            "HF_HUB_CACHE": str(mount / ".hf"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        inside = """
set -e
mount --bind "$1" "$2"
mount -o remount,bind,ro "$2"
exec strace -f -y -qq -s 4096 -e trace=%file,fchmod,fchown -e signal=none -o "$3" \\
  setpriv --reuid="$4" --regid="$4" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs "$5" -c "$6"
"""
        argv = ["unshare", "-mn", "--propagation", "private", "sh", "-c", inside, "sh"]
        argv += [str(tree), str(mount), str(trace), str(UID), str(python), script]
        done = subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, done.stderr
        lines = [line for line in trace.read_text(errors="replace").splitlines() if str(mount) in line]
        writes = tuple(line for line in lines if _WRITES.match(line))
        return Seen(json.loads(done.stdout), done.stderr, mount, len(lines), writes)
