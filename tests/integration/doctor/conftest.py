"""One store a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Prestage


@pytest.fixture
def prestage(tmp_path: Path) -> Prestage:
    return Prestage(tmp_path / "store", {"NO_COLOR": "1"})
