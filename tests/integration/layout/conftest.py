"""A hub with a small repository of two branches, and a store beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Prestage

from servers.hub import Hub

WEIGHTS = random.Random(6).randbytes(300_001)


@pytest.fixture
def small_hub(hub: Hub) -> Hub:
    """`org/model`: a folder deep, the same bytes twice, LFS and not, and branches with a slash in them."""
    folder = hub.root / "org" / "model"
    for inside, number in ((".", 1), ("branches/one", 2)):
        (folder / inside / "sub" / "deep").mkdir(parents=True)
        (folder / inside / "config.json").write_text(json.dumps({"a": number}))
        (folder / inside / "README.md").write_text("same in both")
        (folder / inside / "sub" / "README.md").write_text("same in both")
        (folder / inside / "empty.txt").touch()
        (folder / inside / "model.safetensors").write_bytes(WEIGHTS)
        (folder / inside / "sub" / "deep" / "caf\u00e9 1.safetensors").write_bytes(WEIGHTS[: 70_000 * number])
    (folder / ".hub.json").write_text(json.dumps({"branches": {"feature/one": "branches/one"}}))
    hub.reload()
    return hub


@pytest.fixture
def from_hub(tmp_path: Path) -> Callable[[Hub], Prestage]:
    """The command on a store of its own that asks this hub."""

    def made(hub: Hub) -> Prestage:
        plain = Prestage(tmp_path / "store", {"NO_COLOR": "1"})
        return replace(plain, env={**plain.env, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")})

    return made
