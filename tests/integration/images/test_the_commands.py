"""`prestage images` and `prestage bench image` as people call them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import simple
from layers.node import NEEDS, Node, grpc_kept

from servers.containerd import Containerd
from servers.fixtures import require
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]


def run(*argv: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "prestage.cacher.cli", *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    """One that drops what it has unpacked, as some distributions set it."""
    require(*NEEDS)
    folder = Path(tempfile.mkdtemp(prefix="ctrd-"))
    try:
        with grpc_kept(), Containerd(folder, discards_layers=True) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_an_image_is_staged_listed_and_released(registry: Registry, node: Node) -> None:
    name, at = registry.push("t/app", "v1", simple()), ("--containerd", str(node.containerd.socket))
    staged = run("images", "stage", f"oci://{name}", *at, "--high-water", "100")
    artifact = staged.partition(" ")[0]
    assert name in staged
    row = json.loads(run("images", "list", *at, "--json"))
    assert (row["artifact"], row["name"], row["state"]) == (artifact, name, "warm")
    asked = len(registry.asked(client="containerd"))
    node.pull(name)
    assert not any(one.is_blob for one in registry.asked(client="containerd")[asked:])
    run("images", "release", artifact, *at)
    assert not node.listed()
    assert "prestage images list" in run("images", "release", artifact, *at, code=3)


def test_the_doctor_says_what_it_found(node: Node) -> None:
    at = ("--containerd", str(node.containerd.socket))
    found = json.loads(run("images", "doctor", *at, "--json"))
    assert (found["snapshotter"], found["pulls_use"]) == ("overlayfs", "overlayfs")
    assert found["image_root"].startswith(str(node.containerd.root))
    if found["version"].lstrip("v").startswith("1."):
        assert found["discards_layers"] is True
        assert "discard_unpacked_layers is set" in run("images", "doctor", *at)
    assert "it has" in run("images", "doctor", *at, "--snapshotter", "soci", code=2)


def test_the_bench_leaves_the_containerd_as_it_was(registry: Registry, node: Node, tmp_path: Path) -> None:
    name = registry.push("t/bench", "v1", simple(layers=2, seed=3))
    argv = ["bench", "image", f"oci://{name}", "--containerd", str(node.containerd.socket), "--dir", str(tmp_path)]
    found = json.loads(run(*argv, "--rounds", "1", "--throttle", "50M", "--json"))
    assert {"pull", "stage", "find", "speed"} <= set(found)
    assert found["goals"]["speed"]["goal"] == 2.0
    assert not any(node.inventory().values())
