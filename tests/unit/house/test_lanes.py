"""The lanes of the slow tier name tests that there are, and every slow test is found by the words that the Makefile looks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lanes import LANES, SPREAD, lane_of, order_of

HOUSE = Path(__file__).resolve().parents[3]
SOAK = "tests/integration/agent/test_for_long.py::test_thousands_of_stages_and_evicts_leave_nothing_growing"


@pytest.mark.parametrize("begin", [begin for begins in (*LANES.values(), SPREAD) for begin in begins])
def test_what_a_lane_names_is_there_and_slow(begin: str) -> None:
    path, _, function = begin.partition("::")
    files = [HOUSE / path] if path.endswith(".py") else sorted((HOUSE / path).glob("test_*.py"))
    texts = [file.read_text() for file in files]
    assert any("mark.slow" in text for text in texts)
    assert any(f"def {function}" in text for text in texts)


def test_no_test_fits_two_lanes() -> None:
    begins = [begin for lane in (*LANES.values(), SPREAD) for begin in lane]
    assert [(one, other) for one in begins for other in begins if one != other and one.startswith(other)] == []


def test_the_soak_begins_first_and_its_lane_has_more_than_xdist_queues_behind() -> None:
    spread, file, folder = f"{SPREAD[0]}::test_a[x]", "tests/unit/test_b.py::test_b", "tests/cluster/new/test_c.py::test_c"
    story = "tests/cluster/story/test_d.py::test_d"
    tests = sorted([spread, file, folder, story, SOAK], key=order_of)
    assert tests == [SOAK, story, file, folder, spread]
    assert [lane_of(test) for test in tests] == ["soak", "story", "tests/unit/test_b.py", "tests/cluster/new", None]
    assert len(LANES["soak"]) > 2


def test_the_mark_slow_stands_in_the_files_of_tests_only() -> None:
    """So that `make test-all` collects those files and no other."""
    marked = re.compile(r"\bmark\.slow\b")
    named = {path.relative_to(HOUSE).as_posix() for path in (HOUSE / "tests").rglob("*.py") if marked.search(path.read_text())}
    assert {name for name in named if not Path(name).name.startswith("test_")} == set()


@pytest.mark.slow
def test_a_lane_stays_in_one_worker() -> None:
    """By pytest-xdist as it is installed: its own way of grouping was lost with a version of pytest."""
    files = ["tests/unit/house/test_lanes.py", "tests/unit/api/test_examples.py"]
    argv = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "-m", "not slow"]
    done = subprocess.run([*argv, *files], capture_output=True, text=True, timeout=120, cwd=HOUSE, check=False)
    ran = re.findall(r"^\[(gw\d)\] .*PASSED (\S+?)::", done.stdout, re.MULTILINE)
    assert len(ran) > 10, done.stdout
    workers = {file: {worker for worker, name in ran if lane_of(name) == lane_of(file)} for file in files}
    assert [len(found) for found in workers.values()] == [1, 1]
