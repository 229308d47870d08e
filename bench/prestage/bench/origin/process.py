"""Starts the origin in a process of its own, so that it does not share our interpreter lock, and stops it.

with serving({"org/name": Served(folder)}, bytes_per_s=125e6) as origin:
    origin.endpoint, origin.pid
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.errors import NotFound, Unavailable

_START_S = 60.0
"""The origin hashes what it serves before it is ready; a disk at 0.5 GB/s reads 30 GB in that time."""
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """A repository's folder, and the SHA-256 (hex) of those of its files that are known."""

    folder: Path
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """A running origin."""

    endpoint: str
    pid: int


@contextmanager
def serving(repositories: Mapping[str, Served], *, bytes_per_s: float | None) -> Iterator[Origin]:
    """An origin for as long as the block runs; all bodies together leave at `bytes_per_s`.

    Raises:
        NotFound: a folder is missing.
        Unavailable: it did not start.
    """
    for name, at in repositories.items():
        if not at.folder.is_dir():
            raise NotFound(f"the folder to serve as {name} is missing: {str(at.folder)!r}", hint="check its path")
    process = subprocess.Popen(
        [sys.executable, "-m", "prestage.bench.origin.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for us: we end it, after those that read from it
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            settings = {name: {"folder": str(at.folder), "sha256": dict(at.sha256)} for name, at in repositories.items()}
            process.stdin.write(json.dumps({"repositories": settings, "bytes_per_s": bytes_per_s}) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], _START_S)
            line = process.stdout.readline() if ready else ""
            if not line:
                raise Unavailable("the local origin did not start", hint="its own words are above")
            yield Origin(json.loads(line)["endpoint"], process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
