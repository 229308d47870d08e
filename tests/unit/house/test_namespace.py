"""One namespace over several roots, and a loader that costs nothing to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
ROOTS = ("cacher", "daemonset", "bench", "loader-lib")
IMPORT_LIMIT_US = 30_000
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]


def run(*argv: str, path: tuple[str, ...] = ROOTS) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str(HOUSE / root) for root in path)
    env = {**os.environ, "PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "", "NO_COLOR": "1"}
    return subprocess.run(argv, cwd=HOUSE, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("root", ROOTS)
def test_no_module_stands_directly_in_the_namespace(root: str) -> None:
    assert list((HOUSE / root / "prestage").glob("*.py")) == []


def test_both_distributions_have_one_version() -> None:
    loader = tomllib.loads((HOUSE / "loader-lib" / "pyproject.toml").read_text())["project"]
    assert loader["version"] == PROJECT["version"]
    assert f"prestage-loader=={loader['version']}" in PROJECT["optional-dependencies"]["bench"]


def test_what_may_import_what_holds() -> None:
    done = run(str(Path(sys.executable).parent / "lint-imports"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_loader_imports_neither_a_framework_nor_the_rest_of_the_house() -> None:
    done = run(sys.executable, "-c", "import sys, json, prestage.loader; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "numpy", "jax", "safetensors", "aiohttp", "asyncio", "boto3", "rich", "click"}
    modules = json.loads(done.stdout)
    assert heavy.isdisjoint(modules)
    assert [name for name in modules if name.startswith(("prestage.cacher", "prestage.bench"))] == []


def test_the_loader_imports_in_thirty_milliseconds() -> None:
    """The best of seven fresh interpreters: what it costs, not what the neighbours cost."""
    costs_us = []
    for _ in range(7):
        done = run(sys.executable, "-X", "importtime", "-c", "import prestage.loader", path=("loader-lib",))
        line = next(line for line in done.stderr.splitlines() if line.split("|")[-1].strip() == "prestage.loader")
        costs_us.append(int(line.split("|")[1]))
    assert min(costs_us) <= IMPORT_LIMIT_US, costs_us


@pytest.mark.parametrize(("name", "value"), [*PROJECT["scripts"].items(), *PROJECT["entry-points"]["prestage.commands"].items()])
def test_every_command_leads_to_something_callable(name: str, value: str) -> None:
    assert callable(EntryPoint(name, value, "prestage.commands").load())
