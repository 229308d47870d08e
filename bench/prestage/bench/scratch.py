"""Folders that the bench makes and removes again, stores with their read-only directories included."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder below `parent` for as long as the block runs; `parent` is made if missing."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder that is ours; nothing happens when it is not there. Symbolic links are not followed."""
    for directory, _, _ in os.walk(folder):
        Path(directory).chmod(0o700)
    if folder.exists():
        shutil.rmtree(folder)
