"""safetensors' own Python tests pass on this loader's readers as they pass on its own. Brought by `make conformance`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (make conformance)")

HOUSE = Path(__file__).resolve().parents[3]
SUITE = HOUSE / ".tools" / "safetensors" / "bindings" / "python"
FILES = ("handle", "multithreaded", "pread_backend", "pt_comparison", "pt_model", "simple", "threadable")
"""The others are of frameworks that neither side has here: flax, mlx, paddle, tensorflow."""
EXCEPTIONS: dict[str, str] = {}
"""Tests of theirs that fail on our readers, each with the reason."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SUITE.is_dir(), reason="safetensors' sources are not here (make conformance)"),
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcomes`: passed, skipped or failed by test; `calls`: how often each of our readers was called."""

    outcomes: dict[str, str]
    calls: dict[str, int]

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


def suite(folder: Path, shim: str, files: tuple[str, ...] = FILES) -> Verdict:
    shutil.copytree(SUITE, folder)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "conformance.shim", "-p", "no:cacheprovider", "--junitxml=verdict.xml"]
    done = subprocess.run(
        [*argv, *(f"tests/test_{name}.py" for name in FILES)],
        cwd=folder,
        env=os.environ | {"PRESTAGE_SHIM": shim, "PYTHONPATH": f"{HOUSE / 'loader-lib'}{os.pathsep}{HOUSE / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    said = re.search(r"^prestage shim: (.*)$", done.stdout, re.MULTILINE)
    assert said, done.stdout + done.stderr
    outcomes = {}
    for case in ET.parse(folder / "verdict.xml").iter("testcase"):
        told = {part.tag for part in case}
        name = f"{case.get('classname')}.{case.get('name')}"
        outcomes[name] = "skipped" if "skipped" in told else "failed" if told & {"failure", "error"} else "passed"
    return Verdict(outcomes, json.loads(said[1]))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    return suite(tmp_path_factory.mktemp("ours") / "python", "on")


def test_their_suite_passes_on_our_readers_as_on_theirs(tmp_path: Path, ours: Verdict) -> None:
    theirs = suite(tmp_path / "python", "off")
    assert (theirs.count("passed"), theirs.count("failed"), theirs.calls) == (66, 0, {})
    assert {name for name, outcome in theirs.outcomes.items() if ours.outcomes.get(name) != outcome} == set(EXCEPTIONS)
    assert ours.outcomes.keys() == theirs.outcomes.keys()


def test_the_suite_reads_by_our_readers(ours: Verdict) -> None:
    assert ours.calls.keys() == {"safe_open", "torch.load_file", "torch.load_model", "numpy.load_file"}
    assert {name: count for name, count in ours.calls.items() if count < 8} == {}


def test_the_suite_sees_a_reader_that_is_wrong(tmp_path: Path) -> None:
    assert suite(tmp_path / "python", "wrong", ("pt_model", "pt_comparison")).count("failed") > 5
