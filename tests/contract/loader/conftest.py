"""A fresh fake CUDA driver for tests that name it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakecuda import FakeCuda, compile_library


@pytest.fixture(scope="session")
def compiled_fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("fakecuda"))


@pytest.fixture
def fake(compiled_fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    copy = tmp_path / "libcuda.so.1"
    shutil.copy(compiled_fake, copy)
    return FakeCuda(copy, monkeypatch)
