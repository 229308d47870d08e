"""`prestage tree` and `prestage run --hf` as a user has them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Prestage


@pytest.fixture
def prestage(tmp_path: Path) -> Prestage:
    return Prestage(tmp_path / "store", {"NO_COLOR": "1"})


@pytest.fixture
def refs(prestage: Prestage, tmp_path: Path) -> list[str]:
    """Two staged directories."""
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
        (folder / "weights.bin").write_bytes(os.urandom(5_000))
        assert prestage("stage", folder.as_uri()).code == 0
        made.append(folder.as_uri())
    return made


def test_a_tree_is_printed_held_and_dropped(prestage: Prestage, refs: list[str]) -> None:
    made = prestage("tree", f"a={refs[0]}", f"b={refs[1]}", "--repo", "b=mine/b", "--hold", "1h", "--json")
    assert made.code == 0, made.err
    tree = Path(made.last["path"])
    assert {path.name for path in tree.iterdir()} == {"a", "b", ".hf", ".prestage"}
    assert made.last["hf_hub_cache"] == str(tree / ".hf")
    assert [(part["name"], part["path"], part["repo"]) for part in made.last["parts"]] == [
        ("a", str(tree / "a"), None),
        ("b", str(tree / "b"), "mine/b"),
    ]
    assert json.loads((tree / "b" / "config.json").read_text()) == {"name": "two"}
    refused = prestage("evict", refs[1])
    assert refused.code == 6
    assert "prestage tree" in refused.err
    assert prestage("tree", "--drop", str(tree)).code == 0
    assert not tree.exists()
    assert prestage("tree", "--drop", str(tree)).code == 3
    assert prestage("evict", refs[1]).code == 0


def test_one_ref_needs_no_name(prestage: Prestage, refs: list[str]) -> None:
    tree = Path(prestage("tree", refs[0]).out.strip())
    assert (tree / "model" / "config.json").exists()
    assert not (tree / ".hf").exists()


REFUSED = (
    (["tree"], 2, "NAME=REF"),
    (["tree", "{0}", "{1}"], 2, "no name"),
    (["tree", "a={0}", "a={1}"], 2, "two parts"),
    (["tree", "../x={0}"], 2, "cannot name a folder"),
    (["tree", "a={0}", "--repo", "b=mine/b"], 2, "no part"),
    (["tree", "a={0}", "--repo", "mine/b"], 2, "NAME=ORG/NAME"),
    (["tree", "a={0}", "--repo", "a=a/b/c"], 2, "org/name"),
    (["tree", "a=hf://org/none"], 3, "stage it first"),
    (["run", "--hf", "{0}", "--", "true"], 2, "--repo org/name"),
    (["run", "--repo", "a/b", "{0}", "--", "true"], 2, "add --hf"),
    (["run", "--hf", "--repo", "x y", "{0}", "--", "true"], 2, "x y"),
)


def test_what_is_wrong_is_said_and_leaves_nothing(prestage: Prestage, refs: list[str]) -> None:
    for words, code, says in REFUSED:
        refused = prestage(*(word.format(*refs) for word in words))
        assert (refused.code, words) == (code, words), refused.err
        assert says in refused.err
    assert not list((prestage.root / "mounts").iterdir())
    assert not any(row["holds"] for row in json.loads(prestage("ls", "--json").out))


def test_run_for_a_hub_client_tells_it_where_to_look_and_keeps_the_path(prestage: Prestage, refs: list[str]) -> None:
    child = "import os, sys, pathlib as p; e = os.environ; hub = p.Path(e['HF_HUB_CACHE'])\n"
    child += "assert e['HF_HUB_OFFLINE'] == '1' and (p.Path(e['PRESTAGE_MODEL_PATH']) / 'config.json').exists()\n"
    child += "print(hub, *hub.iterdir()); sys.exit(9)"
    ran = prestage("run", "--hf", "--repo", "mine/one", refs[0], "--", sys.executable, "-c", child)
    assert ran.code == 9, ran.err
    hub, repository = map(Path, ran.out.split())
    assert repository.name == "models--mine--one"
    assert not hub.exists(), "it goes with the command"
    assert prestage("evict", refs[0]).code == 0


def test_a_killed_run_leaves_a_tree_that_keeps_nothing(prestage: Prestage, refs: list[str]) -> None:
    process = prestage.start("run", "--hf", "--repo", "mine/one", refs[0], "--", "sh", "-c", "echo $HF_HUB_CACHE; exec sleep 60")
    assert process.stdout is not None
    hub = Path(process.stdout.readline().strip())
    assert hub.is_dir()
    assert prestage("evict", refs[0]).code == 6
    child = int(subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[0])
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()
    assert hub.is_dir(), "nobody was left to remove it"
    assert prestage("evict", refs[0]).code == 0
    assert not hub.exists()
