"""The image for users, and the one that tests build without an engine, hold the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

from cluster import rootfs

HOUSE = Path(__file__).resolve().parents[3]
DOCKERFILE = (HOUSE / "Dockerfile").read_text()
IGNORED = (HOUSE / ".dockerignore").read_text().splitlines()


def test_the_image_of_the_tests_holds_the_packages_that_the_dockerfile_installs() -> None:
    lines = (HOUSE / "requirements-image.lock").read_text().splitlines()
    needs = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    locked = {need.name: str(need.specifier) for need in needs if need.marker is None or need.marker.evaluate()}
    held = {name: f"=={one.version}" for name, one in rootfs.requirements().items()}
    assert held == locked


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    copied = [
        word
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert len(copied) >= 6
    for name in copied:
        assert (HOUSE / name).exists()
        assert f"!{name}" in IGNORED
    assert IGNORED[0] == "*"


def test_the_image_runs_as_nobody_and_starts_prestage() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 65532:65532$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["prestage"\]$', last, re.MULTILINE)


def test_what_is_copied_is_enough_to_build_our_wheel(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "cacher", "daemonset/prestage", "bench"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (HOUSE / name).is_dir():
            shutil.copytree(HOUSE / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(HOUSE / name, target)
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "out")]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    [wheel] = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert {"prestage/node/cli.py", "prestage/control/cli.py"} <= set(packed.namelist())
