"""The integrations cost nothing until they are used, and are declared where engines look for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "numpy", "transformers", "safetensors", "vllm")


@pytest.mark.parametrize(
    "module", ["", ".integrations.rebind", ".integrations.shards", ".integrations.transformers", ".integrations.vllm"]
)
def test_importing_an_integration_imports_no_framework(module: str) -> None:
    script = (
        f"import sys, prestage.loader{module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(HOUSE / "loader-lib")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == []


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="vllm.general_plugins", name="prestage")
    assert found.value == "prestage.loader.integrations.vllm:register"
    assert callable(found.load())
