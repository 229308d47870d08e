"""`prestage bench load --device cuda` on a real device: rows, goals, one sum over all bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from prestage.bench.checkpoint import make_checkpoint
from prestage.bench.cold import StillWarm, make_cold

MIB = 1 << 20


@pytest.mark.usefixtures("gpu")
def test_a_checkpoint_is_measured_to_the_device_beside_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from prestage.bench.load import load

    made = make_checkpoint(tmp_path / "model", 64 * MIB, shard_bytes=32 * MIB)
    try:
        make_cold(made.shards)
    except StillWarm:
        pytest.skip("the temporary folder lies in memory (tmpfs), which has no cold state")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    loaders = "prestage,prestage-verified,safetensors,pinned,raw-8"
    options = ["--device", "cuda", "--framework", "pt", "--loaders", loaders, "--rounds", "1", "--json"]
    done = CliRunner().invoke(load, [str(tmp_path / "model"), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    result = json.loads(done.stdout)
    assert (result["framework"], result["device"], result["files"]) == ("pt", "cuda:0", len(made.shards))
    rows = {(row["loader"], row["state"], row["verify"]): row for row in result["rows"]}
    ours = {("prestage", state, verify) for state in ("hot", "cold") for verify in ("on", "off")}
    rivals = {("safetensors", "hot", "off"), ("safetensors", "cold", "off")}
    assert set(rows) == {*ours, *rivals, ("pinned", "hot", "off"), ("raw-8", "cold", "off")}
    assert all(row["gb_per_s"] > 0 for row in rows.values())
    assert all(rows[key]["ratio_to_mmap"] > 0 for key in (*ours, *rivals))
    assert [goal["name"] for goal in result["goals"]] == [
        "to the device, hot, verify off / pinned copies (load)",
        "to the device, cold, verify off / raw (load)",
    ]
    assert all(goal["measured"]["median"] > 0 for goal in result["goals"])
    print(json.dumps(result))
