"""One agent a test, and an origin that misbehaves on demand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from agents import Agent

from prestage.cacher.digests import PIECE_BYTES
from servers.hostile import Hostile

MODEL = "/model.safetensors"


@cache
def _content(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


@pytest.fixture
def data() -> bytes:
    """Three pieces and a bit."""
    return _content(3 * PIECE_BYTES + 4321)


@pytest.fixture
def origin(data: bytes) -> Iterator[Hostile]:
    """Serves `data` at /model.safetensors, and small files at /small-<n>."""
    with Hostile({MODEL: data}) as server:
        for number in range(8):
            server.put(f"/small-{number}", _content(40_000 + number))
        yield server


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path / "store") as running:
        yield running


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for a whole module: a start costs seconds on a busy machine."""
    with Agent(tmp_path_factory.mktemp("standing") / "store") as running:
        yield running
