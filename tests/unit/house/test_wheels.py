"""What the two distributions hold, and that either works without the other."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built as a release is, without an index."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (HOUSE, HOUSE / "loader-lib"):
        argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(argv, cwd=project, check=True, capture_output=True, timeout=120)
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return {name for name in packed.namelist() if ".dist-info/" not in name}


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as packed:
        return next(packed.read(path).decode() for path in packed.namelist() if path.endswith(f".dist-info/{name}"))


def metadata(wheel: Path) -> Message:
    return message_from_string(read(wheel, "METADATA"))


def sources(*roots: str) -> set[str]:
    found = {path.relative_to(HOUSE / root).as_posix() for root in roots for path in (HOUSE / root).glob("prestage/**/*")}
    return {name for name in found if name.endswith((".py", ".typed"))}


def test_the_main_wheel_holds_every_module_and_nothing_else(wheels: dict[str, Path]) -> None:
    names = names_in(wheels["prestage"])
    assert {name for name in names if name.endswith((".py", ".typed"))} == sources("cacher", "daemonset", "bench")
    components = {
        "cacher",
        "api",
        "calendar",
        "pictures",
        "kube",
        "planner",
        "wire",
        "node",
        "images",
        "control",
        "kubectl",
        "bench",
    }
    assert {f"prestage/{name}/py.typed" for name in components} <= names
    assert {"/".join(name.split("/")[:2]) for name in names} == {f"prestage/{name}" for name in components}


def test_the_loader_wheel_holds_the_loader_alone(wheels: dict[str, Path]) -> None:
    names = names_in(wheels["prestage_loader"])
    assert {name for name in names if name.endswith((".py", ".typed"))} == sources("loader-lib")
    assert "prestage/loader/py.typed" in names
    assert {"/".join(name.split("/")[:2]) for name in names} == {"prestage/loader"}


def test_neither_distribution_needs_the_other(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        needed = [need for need in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in need]
        assert [need for need in needed if need.startswith("prestage")] == []
    loader = metadata(wheels["prestage_loader"]).get_all("Requires-Dist", [])
    assert [need for need in loader if "extra ==" not in need] == ["xxhash>=3.5"]


def test_both_wheels_carry_the_licence(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        assert metadata(wheel)["License-Expression"] == "Apache-2.0"
        assert "Version 2.0, January 2004" in read(wheel, "licenses/LICENSE")


def test_the_wheel_registers_every_command(wheels: dict[str, Path]) -> None:
    parser = ConfigParser()
    parser.read_string(read(wheels["prestage"], "entry_points.txt"))
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    assert dict(parser["console_scripts"]) == project["scripts"]
    assert dict(parser["prestage.commands"]) == project["entry-points"]["prestage.commands"]


class Environment:
    """A fresh virtual environment: our wheels are installed, their dependencies borrowed from the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        self.bin = folder / "bin"

    def pip(self, *arguments: str) -> None:
        argv = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *arguments]
        subprocess.run([*argv, "--quiet"], check=True, timeout=120)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
        argv = [str(self.bin / program), *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_either_distribution_works_alone_and_both_together(wheels: dict[str, Path], tmp_path: Path) -> None:
    if find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    environment = Environment(tmp_path / "fresh")
    environment.pip("install", "--no-index", "--no-deps", str(wheels["prestage_loader"]))
    assert environment.run("python", "-c", "import prestage.loader").returncode == 0
    assert "ModuleNotFoundError" in environment.run("python", "-c", "import prestage.cacher").stderr
    environment.pip("install", "--no-index", "--no-deps", str(wheels["prestage"]))
    both = environment.run(
        "python", "-c", "import prestage.loader, prestage.cacher.errors, prestage.bench as b; print(b.__file__)"
    )
    assert str(environment.bin.parent) in both.stdout, both.stderr
    environment.pip("uninstall", "--yes", "prestage-loader")
    assert "ModuleNotFoundError" in environment.run("python", "-c", "import prestage.loader").stderr
    helped = environment.run("prestage", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "stage" in helped.stdout


def test_an_unpacked_loader_wheel_on_the_path_is_found_by_vllm(wheels: dict[str, Path], tmp_path: Path) -> None:
    """How it comes into a serving image that nobody rebuilds: an init container unpacks it, PYTHONPATH names the folder."""
    with zipfile.ZipFile(wheels["prestage_loader"]) as packed:
        packed.extractall(tmp_path)
    script = "from importlib.metadata import entry_points\n" + (
        "[one] = {one.dist.locate_file('') for one in entry_points(group='vllm.general_plugins', name='prestage')}\nprint(one)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],  # without this environment's own packages
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Path(done.stdout.strip()) == tmp_path
