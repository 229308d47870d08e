"""`prestage bench start` and the demo, whole: real origin, real client, real store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prestage.bench import start
from prestage.bench.checkpoint import Checkpoint
from prestage.bench.origin.process import Origin
from prestage.cacher.errors import Full

REF = "hf://prestage/tiny@main"


def _environment(origin: Origin, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": origin.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}


def test_cold_and_staged_starts_give_the_same_answer(origin: Origin, model: Checkpoint, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    job = start.StartJob(REF, tmp_path / "store", scratch, rounds=2, environment=_environment(origin, tmp_path))
    lines: list[str] = []
    result = start.measure(job, lines.append)
    assert {start.COLD, start.DISK, start.WARM} <= set(result.variants)
    assert result.stage.files == len(model.sha256)
    assert result.phase(start.COLD, "fetch").low > 0
    assert result.phase(start.WARM, "fetch").high < 0.5
    assert len(result.samples) == 2 * len(result.variants)
    assert len({sample.answer for sample in result.samples}) == 1
    assert list(scratch.iterdir()) == []
    assert lines


def test_the_command_prints_json_and_draws(origin: Origin, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prestage.cacher.cli", "bench", "start", REF, "--root", str(tmp_path / "store")]
    options = ["--rounds", "1", "--json", "--png", "plot.png", "--html", "report.html", "--dir", str(tmp_path / "scratch")]
    environment = {**os.environ, **_environment(origin, tmp_path)}
    done = subprocess.run(
        command + options, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["same_answer"] is True
    assert content["speedups"][start.WARM]["noisy"] is True
    assert "one round only: its spread is not known" in content["speedups"][start.WARM]["reasons"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_cold_download_that_cannot_fit_is_refused(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = start.StartJob(REF, tmp_path / "store", tmp_path, rounds=1, environment=_environment(origin, tmp_path))
    monkeypatch.setattr(start, "_MARGIN_BYTES", 1 << 60)
    with pytest.raises(Full, match="does not fit"):
        start.measure(job, lambda _: None)


def _demo(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prestage.bench.demo", "--dir", "demo", "--link", "8", "--rounds", "1", "--big-rounds", "1"]
    return subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)


def test_the_demo_shows_the_same_embedding_and_leaves_little(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--size", "50M")
    assert done.returncode == 0, done.stderr
    assert "same embedding, byte for byte" in done.stdout
    assert start.FORMULA in done.stdout
    assert "all-MiniLM-L6-v2" in (tmp_path / "report.html").read_text()
    assert str(tmp_path / "report.html") in done.stderr
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    assert left == {"store"}
    listed = subprocess.run(
        [sys.executable, "-m", "prestage.cacher.cli", "ls", "--json", "--root", "demo/store"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [row["ref"] for row in json.loads(listed.stdout)] == ["hf://sentence-transformers/all-MiniLM-L6-v2@main"]


def test_the_demo_runs_twice_in_one_place(tmp_path: Path) -> None:
    for _ in range(2):
        done = _demo(tmp_path, "--size", "0", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["same_answer"] is True


def test_the_demo_says_first_when_the_disk_is_too_small(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--size", "900T")
    assert done.returncode == 7
    assert "the demo needs" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_its_servers_and_its_model_with_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "prestage.bench.demo", "--dir", "demo", "--link", "0.2", "--size", "50M"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stderr is not None
        line = ""
        while "round 1" not in line:
            line = running.stderr.readline()
            assert line, "it ended before it was interrupted"
        os.killpg(running.pid, number)
        words = running.stderr.read()
        assert running.wait(30) == 130
    assert "interrupted" in words
    assert "Traceback" not in words
    assert {path.name for path in (tmp_path / "demo").iterdir()} <= {"store"}
    left = [path for path in Path("/proc").glob("[0-9]*/cwd") if _readlink(path) == str(tmp_path)]
    assert left == []


def _readlink(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
