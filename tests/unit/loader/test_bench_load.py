"""`prestage bench load`: every variant runs, and the result says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from loading import bytes_tensors

from prestage.bench import load_run
from prestage.bench.cold import StillWarm, make_cold
from prestage.bench.load import load
from prestage.cacher.errors import Misconfigured

pytest.importorskip("safetensors", reason="`bench load` compares with the safetensors library")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2):
        content = bytes_tensors({"a": (5 << 20) + 3, "b": 1 << 20}, seed=number)
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(content)
    return folder


@pytest.mark.parametrize("cold", [False, True])
def test_a_folder_is_measured_by_every_variant_and_left_as_it_was(model: Path, cold: bool) -> None:
    before = sorted(model.iterdir())
    try:
        make_cold(before)
    except StillWarm:
        pytest.skip("the temporary folder lies in memory (tmpfs), which has no cold state")
    done = CliRunner().invoke(load, [str(model), "--framework", "np", "--rounds", "2", "--json", *(["--cold"] if cold else [])])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["files"], result["framework"], result["cold"], result["rounds"]) == (2, "np", cold, 2)
    assert result["bytes"] == sum(file.stat().st_size for file in before)
    assert set(result["variants"]) == {"safetensors", "ours", "verified", "xxh3", "xxh3-threads"}
    for measured in result["variants"].values():
        assert len(measured["load_s"]["values"]) == 2
        assert all(value > 0 for value in measured["load_s"]["values"])
    assert result["ratios"]["verified/xxh3"]["goal"] == (None if cold else 0.5)
    assert (sorted(model.iterdir()), list(Path.cwd().iterdir())) == (before, [])


def test_the_table_names_each_ratio(model: Path) -> None:
    done = CliRunner().invoke(load, [str(model), "--framework", "np", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    for said in ("2 files", "ours/safetensors", "verified/xxh3-threads", "goal 0.5x", "one round only"):
        assert said in done.stdout


def test_the_sum_covers_every_byte(model: Path) -> None:
    file = str(model / "model-00001-of-00002.safetensors")
    right = load_run.measure("safetensors", "np", [file])["sum"]
    assert load_run.measure("ours", "np", [file])["sum"] == right
    with open(file, "r+b") as changed:
        changed.seek(-1, 2)
        last = changed.read(1)[0]
        changed.seek(-1, 2)
        changed.write(bytes([last ^ 1]))
    assert load_run.measure("ours", "np", [file])["sum"] != right


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(load, [str(tmp_path)])
    assert isinstance(done.exception, Misconfigured)
    assert "no *.safetensors" in str(done.exception)
