"""What the store publishes and what the loader reads are one format: staged, loaded with `require`, damaged, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Prestage
from safetensors.numpy import save_file

from prestage.loader import CorruptFile, last_report, safe_open
from prestage.loader.numpy import load_file


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "w": rng.standard_normal((1500, 1000), dtype=np.float32),
        "b": np.arange(11, dtype=np.int64),
        "none": np.zeros((0, 3), np.float16),
    }


@pytest.fixture
def view(prestage: Prestage, tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    save_file(tensors, folder / "deep" / "more.safetensors")
    staged = prestage("stage", folder.as_uri(), "--json")
    assert staged.code == 0, staged.err
    return Path(staged.last["path"])


@pytest.mark.parametrize("name", ["model.safetensors", "deep/more.safetensors"])
def test_a_staged_model_loads_verified(name: str, view: Path, tensors: dict[str, np.ndarray]) -> None:
    loaded = load_file(view / name, verify="require")
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[key], tensor)
    report = last_report()
    assert report is not None
    with safe_open(view / name, "np", verify="require") as file:
        np.testing.assert_array_equal(file.get_slice("w")[3:5, :7], tensors["w"][3:5, :7])


def test_a_damaged_chunk_names_file_range_and_artifact_and_returns_nothing(view: Path) -> None:
    path = view / "model.safetensors"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(CorruptFile, match=r"model\.safetensors") as caught:
        load_file(path)
    assert caught.value.start <= 5_000_000 < caught.value.stop
    assert caught.value.artifact == f"sha256:{view.parent.name}"
