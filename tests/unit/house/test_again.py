"""`.ci/again`: what fails in CI runs a second time, and the log says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN = Path(__file__).resolve().parents[3] / ".ci" / "again"
TESTS = """
import pathlib, pytest
def test_sound(): pass
@pytest.mark.parametrize("number", range({count}))
def test_moody(number):
    seen = pathlib.Path(f"seen-{{number}}")
    first = not seen.exists()
    seen.touch()
    assert not first and {mended}
"""


def again(folder: Path, *, count: int, mended: bool, ci: str = "1", workers: int = 0) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(TESTS.format(count=count, mended=mended))
    words: list[str | Path] = [AGAIN, folder / "cache", sys.executable, "-m", "pytest", "-q", "-n", str(workers), "test_it.py"]
    return subprocess.run(
        words, cwd=folder, env={**os.environ, "CI": ci}, capture_output=True, text=True, timeout=120, check=False
    )


def test_what_fails_once_passes_and_is_named(tmp_path: Path) -> None:
    done = again(tmp_path, count=2, mended=True, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == [f"==> passed at a second try: test_it.py::test_moody[{n}]" for n in range(2)]


@pytest.mark.parametrize(
    ("count", "mended", "ci"), [(1, False, "1"), (5, True, "1"), (1, True, "")], ids=["fails twice", "too many", "no CI"]
)
def test_what_fails_fails(tmp_path: Path, count: int, mended: bool, ci: str) -> None:
    done = again(tmp_path, count=count, mended=mended, ci=ci)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "second try" not in done.stdout
