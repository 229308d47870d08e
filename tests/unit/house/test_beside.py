"""`.ci/beside`: two commands at once, one log, one verdict."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[3] / ".ci" / "beside"


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("meanwhile", "main"), [(0, 0), (3, 0), (0, 3), (3, 3)])
def test_it_fails_if_either_does_and_shows_both(tmp_path: Path, meanwhile: int, main: int) -> None:
    other = script(tmp_path, "other", f"echo quick; exit {meanwhile}")
    last = script(tmp_path, "main", f"echo begun; until [ -e {tmp_path}/seen ]; do sleep 0.02; done; echo closing; exit {main}")
    lines = []
    with subprocess.Popen([BESIDE, other, last], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(line.rstrip())
            if line.startswith("==> so much"):
                (tmp_path / "seen").touch()
    assert running.returncode == (0 if meanwhile == main == 0 else 1)
    assert sorted(line for line in lines if line in ("begun", "    quick", "closing")) == ["    quick", "begun", "closing"]
    assert lines[-1] == "closing"
    assert any(line.startswith(f"==> meanwhile: {other} (exit {meanwhile} after ") for line in lines)


def test_ended_it_ends_what_runs_meanwhile(tmp_path: Path) -> None:
    other = script(tmp_path, "other", f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    last = script(tmp_path, "main", "exec sleep 1")
    with subprocess.Popen([BESIDE, other, last]) as running:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        running.terminate()
        assert running.wait(30) != 0
    pid, deadline_s = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline_s, "it runs on"
        time.sleep(0.02)
