"""The integrations cost nothing until they are used, and are declared where engines look for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import bytes_tensors

from prestage.loader import InvalidFile
from prestage.loader.integrations.shards import files_of

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


LEAVES = st.none() | st.integers() | st.text(max_size=9)
VALUES = st.recursive(LEAVES, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps({"weight_map": value}).encode()))
def test_whatever_an_index_holds_names_files_or_is_invalid(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.safetensors").write_bytes(bytes_tensors({"a": 5}))
        Path(folder, "model.safetensors.index.json").write_bytes(raw)
        with contextlib.suppress(InvalidFile):
            assert all(Path(file).is_file() for file in files_of(folder))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hostname", "gone.safetensors", "", "."])
def test_an_index_names_files_beside_it_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "model.safetensors").write_bytes(bytes_tensors({"a": 5}))
    (tmp_path / "deep" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InvalidFile, match="no file beside it"):
        files_of(str(tmp_path / "deep"))
