"""A fresh fake CUDA driver, and a file to load onto its devices, for tests that name them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakecuda import FakeCuda, compile_library
from loading import View, make_view
from loading.onto_device import CONTENT, MIB


@pytest.fixture(scope="session")
def compiled_fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("fakecuda"))


@pytest.fixture
def fake(compiled_fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    copy = tmp_path / "libcuda.so.1"
    shutil.copy(compiled_fake, copy)
    return FakeCuda(copy, monkeypatch)


@pytest.fixture
def view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> View:
    """`onto_device.CONTENT`, with sums."""
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")
    return make_view(tmp_path, {"model.safetensors": CONTENT}, chunk_bytes=MIB)
