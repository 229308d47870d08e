"""A small model behind a local origin, as the bench starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prestage.bench.checkpoint import Checkpoint, make_checkpoint
from prestage.bench.origin.process import Origin, Served, serving

NAME = "prestage/tiny"


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    """12 MB in two shards and more."""
    return make_checkpoint(tmp_path / "model", 12_000_000, shard_bytes=8_000_000)


@pytest.fixture
def origin(model: Checkpoint) -> Iterator[Origin]:
    """Serves the model as `prestage/tiny`, as fast as it goes."""
    with serving({NAME: Served(model.directory, model.sha256)}, bytes_per_s=None) as running:
        yield running
