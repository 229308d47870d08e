"""The layout that a tree has against the one that the unmodified client makes by downloading: the same names, links and bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from commands import Prestage

from servers.hub import Hub

_NOT_COMPARED = (".locks", "CACHEDIR.TAG", ".prestage")
"""What the client writes for itself, and what we write for our loader."""


def downloaded(hub: Hub, cache: Path, *revisions: str) -> Path:
    """What huggingface_hub makes of it."""
    pytest.importorskip("huggingface_hub")
    script = "import sys; from huggingface_hub import snapshot_download\n"
    script += "for revision in sys.argv[2:]: snapshot_download('org/model', revision=revision, cache_dir=sys.argv[1])"
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin", "HF_HOME": str(cache.parent / "home")}
    subprocess.run([sys.executable, "-c", script, str(cache), *revisions], env=env, check=True, timeout=60, capture_output=True)
    return cache


def described(cache: Path) -> Mapping[str, object]:
    """Every file and link below `cache`: what it holds, where it leads."""
    found: dict[str, object] = {}
    for path in cache.rglob("*"):
        name = path.relative_to(cache)
        if any(part in _NOT_COMPARED for part in name.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        found[str(name)] = f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
    return found


def test_one_revision_is_laid_out_as_the_client_does(small_hub: Hub, from_hub: Callable[[Hub], Prestage], tmp_path: Path) -> None:
    prestage = from_hub(small_hub)
    assert prestage("stage", "hf://org/model", "--include", "*").code == 0
    tree = Path(prestage("tree", "hf://org/model").out.strip())
    ours = described(tree / ".hf")
    assert ours == described(downloaded(small_hub, tmp_path / "cache", "main"))
    commit = small_hub.commit("org/model")
    assert ours["models--org--model/refs/main"] == commit.encode()
    assert len([name for name in ours if "/blobs/" in name]) == 5, "equal bytes are one blob"


def test_two_revisions_share_what_is_equal_as_the_client_does(
    small_hub: Hub, from_hub: Callable[[Hub], Prestage], tmp_path: Path
) -> None:
    prestage = from_hub(small_hub)
    for revision in ("feature/one", "main"):
        assert prestage("stage", f"hf://org/model@{revision}", "--include", "*").code == 0
    made = prestage("tree", "one=hf://org/model@feature/one", "main=hf://org/model@main", "--json")
    assert [(part["name"], part["repo"], part["revision"]) for part in made.last["parts"]] == [
        ("one", "org/model", "feature/one"),
        ("main", "org/model", "main"),
    ]
    ours = described(Path(made.last["hf_hub_cache"]))
    assert ours == described(downloaded(small_hub, tmp_path / "cache", "main", "feature/one"))


def test_a_branch_alone_is_main_too_for_who_asks_by_name_only(
    small_hub: Hub, from_hub: Callable[[Hub], Prestage], tmp_path: Path
) -> None:
    prestage = from_hub(small_hub)
    staged = prestage("stage", "hf://org/model@feature/one", "--include", "*", "--json")
    made = prestage("tree", f"m={staged.last['artifact']}", "--json")
    ours = dict(described(Path(made.last["hf_hub_cache"])))
    commit = small_hub.commit("org/model", "feature/one").encode()
    assert ours.pop("models--org--model/refs/main") == commit
    assert ours == described(downloaded(small_hub, tmp_path / "cache", "feature/one"))


def test_a_selection_is_complete_for_an_offline_client(
    small_hub: Hub, from_hub: Callable[[Hub], Prestage], tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    prestage = from_hub(small_hub)
    assert prestage("stage", "hf://org/model", "--include", "*.json").code == 0
    script = "from huggingface_hub import snapshot_download, scan_cache_dir as scan; import json\n"
    script += (
        "info = scan(); print(json.dumps([snapshot_download('org/model'), [str(w) for w in info.warnings], len(info.repos)]))"
    )
    ran = prestage("run", "--hf", "hf://org/model", "--", sys.executable, "-c", script)
    assert ran.code == 0, ran.err
    snapshot, warnings, repositories = json.loads(ran.out)
    assert (Path(snapshot).name, warnings, repositories) == (small_hub.commit("org/model"), [], 1)
    assert list((prestage.root / "mounts").iterdir()) == [], "the tree goes with the command"
