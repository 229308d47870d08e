"""Where crash tests keep their stores: in memory, since a kill takes nothing from the page cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 1 << 30


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory on tmpfs, else one on disk."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ENOUGH_BYTES:
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="prestage-test-", dir=_MEMORY))
    yield path
    shutil.rmtree(path, onerror=_force)


def _force(_function: object, path: str, _error: object) -> None:
    """Views are read-only; only a test that runs without root privileges minds."""
    Path(path).parent.chmod(0o700)
    Path(path).unlink()
