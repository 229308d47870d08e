"""What a measured child costs, and that none outlives its call."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from prestage.bench import load_child
from prestage.bench.child import ChildFailed, run_measured

_BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_cpu_of_a_grandchild_counts(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BURN.format(0.3)!r}], check=True)"
    ran = run_measured(_python(code), cwd=tmp_path, environment=os.environ)
    assert 0.3 <= ran.cpu_s < 5
    assert ran.wall_s > 0.3


def test_memory_is_the_peak_and_not_the_parents(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 256)
    small = run_measured(_python("import time; time.sleep(0.3)"), cwd=tmp_path, environment=os.environ)
    large = run_measured(
        _python("x = b'y' * (150 << 20); import time; time.sleep(0.2); del x; time.sleep(0.1)"),
        cwd=tmp_path,
        environment=os.environ,
    )
    assert small.rss_bytes < len(ballast)
    assert 0 < small.rss_bytes < 100 << 20
    assert large.rss_bytes > 150 << 20


def test_output_comes_back_whole(tmp_path: Path) -> None:
    ran = run_measured(_python("print('x' * 300_000)"), cwd=tmp_path, environment=os.environ)
    assert len(ran.stdout) == 300_001


def test_a_failure_carries_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"exit code 3.*so sorry"):
        run_measured(_python("import sys; sys.stderr.write('so sorry\\n'); sys.exit(3)"), cwd=tmp_path, environment=os.environ)


def test_a_child_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ChildFailed, match="took too long"):
        run_measured(_python(code), cwd=tmp_path, environment=os.environ, timeout_s=1.5)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.02)


def test_a_busy_neighbour_shows_as_foreign_load(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        seconds = iter([100.0, 103.0])
        patched.setattr("prestage.bench.machine.busy_seconds", lambda: next(seconds))
        ran = run_measured(_python("import time; time.sleep(0.5)"), cwd=tmp_path, environment=os.environ)
    assert 0.5 < ran.foreign_cores <= 3 / 0.5


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that `python -m said` runs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "said.py"


def test_a_child_of_bench_load_that_says_much_on_stderr_gets_ready_all_the_same(module: Path) -> None:
    module.write_text("import sys\nsys.stderr.write('warning ' * 100_000)\nprint('READY', flush=True)\n")
    with ExitStack() as stack:
        load_child._wait_until_ready(load_child._child(stack, "said"))


@pytest.mark.parametrize(
    ("code", "timeout_s", "said"),
    [
        ("import sys\nsys.stderr.write('so sorry\\n')\nsys.exit(3)", 60, "ended early: so sorry"),
        ("import time\ntime.sleep(60)", 0.5, "was killed: it took over 0.5 s"),
    ],
)
def test_a_child_of_bench_load_that_ends_early_or_never_is_an_error(
    module: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout_s: float, said: str
) -> None:
    monkeypatch.setattr(load_child, "_TIMEOUT_S", timeout_s)
    module.write_text(code)
    with ExitStack() as stack, pytest.raises(ChildFailed, match=said):
        load_child._wait_until_ready(load_child._child(stack, "said"))
