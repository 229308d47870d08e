"""What no committed file may hold, and how large rooms may grow."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "core", "misc"}
# written in pieces, for this file is committed too
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "proxy." + "golang.org", "registry." + "npmjs.org"]
PLACES = ["/" + "work" + "/", "/tmp/" + "briefs"]
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "HA" + "CK", "XX" + "X"]) + r")\b|[Nn]ot " + "implemented")


def committed() -> list[Path]:
    """Files under version control or about to be; every file of the house where there is no git."""
    argv = ["git", "-C", str(HOUSE), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if listed.returncode != 0:
        made = re.compile(r"(^|/)(\.(?!ci/)|__pycache__/|build/|dist/)")
        found = [path for path in HOUSE.rglob("*") if path.is_file()]
        return [path for path in found if not made.search(path.relative_to(HOUSE).as_posix())]
    return [HOUSE / name for name in listed.stdout.split("\0") if name and (HOUSE / name).is_file()]


def texts(*suffixes: str) -> Iterator[tuple[str, str]]:
    for path in committed():
        if not suffixes or path.suffix in suffixes:
            try:
                yield str(path.relative_to(HOUSE)), path.read_text()
            except UnicodeDecodeError:
                continue


def product() -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in texts(".py") if not name.startswith("tests/"))


@pytest.mark.parametrize("word", [*REGISTRIES, *PLACES])
def test_no_file_names_a_registry_or_the_machine_it_was_written_on(word: str) -> None:
    assert [name for name, text in texts() if word in text] == []


@pytest.mark.parametrize("name", sorted(path.name for path in HOUSE.glob("requirements*.lock")))
def test_a_lock_pins_every_package_by_hash_and_names_no_source(name: str) -> None:
    lock = (HOUSE / name).read_text()
    assert "://" not in lock
    assert "--index" not in lock
    packages = re.findall(r"^([a-z0-9._-]+)==\S+.*\\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE)) > 20
    assert ("torch" in packages) == (name in ("requirements-torch.lock", "requirements-vllm.lock"))


def test_product_code_is_finished() -> None:
    found = [f"{name}: {match[0]}" for name, text in product() if (match := UNFINISHED.search(text))]
    assert found == []


def test_no_room_has_a_vague_name() -> None:
    parts = {part for name, _ in product() for part in Path(name).with_suffix("").parts}
    assert parts & VAGUE == set()


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    lengths = {name: text.count("\n") for name, text in texts(".py")}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = []
    for name, text in product():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                long += [f"{name}:{node.lineno} {node.name}: {lines}"] if lines > 60 else []
    assert long == []
