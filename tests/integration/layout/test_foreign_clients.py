"""Unmodified huggingface_hub and transformers on a read-only mount of a tree, as somebody else, without a network."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import foreign
import pytest
from commands import Prestage

from prestage.bench.minilm import model_folder
from prestage.cacher.errors import NotFound
from servers.hub import Hub

_TORCH = Path(__file__).parents[3] / ".tools" / "torch" / "bin" / "python"

_HUB = """
import json, os
from huggingface_hub import cached_assets_path, hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub import get_cached_repo_tree

def read(path):
    return open(path, "rb").read().decode()

info = scan_cache_dir()
print(json.dumps({
    "main": read(hf_hub_download("org/model", "config.json")),
    "branch": read(hf_hub_download("org/model", "config.json", revision="feature/one")),
    "deep": os.path.getsize(hf_hub_download("org/model", "sub/deep/caf\\u00e9 1.safetensors")),
    "snapshot": sorted(os.listdir(snapshot_download("org/model"))),
    "snapshot of the branch": os.path.basename(snapshot_download("org/model", revision="feature/one")),
    "other": read(hf_hub_download("mine/other", "config.json")),
    "known": try_to_load_from_cache("org/model", "config.json") is not None,
    "listed": len(get_cached_repo_tree("org/model")),
    "assets": os.path.isdir(cached_assets_path("prestage")),
    "repositories": sorted(repo.repo_id for repo in info.repos),
    "warnings": [str(warning) for warning in info.warnings],
    "path": read(os.environ["TREE"] + "/one/config.json"),
}))
"""


def test_huggingface_hub_finds_everything_offline_and_writes_nothing(
    small_hub: Hub, from_hub: Callable[[Hub], Prestage], tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    prestage = from_hub(small_hub)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"other": true}')
    for ref in ("hf://org/model@main", "hf://org/model@feature/one", other.as_uri()):
        assert prestage("stage", ref).code == 0
    words = ["main=hf://org/model", "one=hf://org/model@feature/one", f"other={other.as_uri()}", "--repo", "other=mine/other"]
    made = prestage("tree", *words, "--json")
    assert made.code == 0, made.err
    before = len(small_hub.log)
    seen = foreign.run(Path(made.last["path"]), _HUB, python=Path(sys.executable))
    assert seen.said == {
        "main": '{"a": 1}',
        "branch": '{"a": 2}',
        "deep": 70_000,
        "snapshot": ["README.md", "config.json", "empty.txt", "model.safetensors", "sub"],
        "snapshot of the branch": small_hub.commit("org/model", "feature/one"),
        "other": '{"other": true}',
        "known": True,
        "listed": 6,
        "assets": True,
        "repositories": ["mine/other", "org/model"],
        "warnings": [],
        "path": '{"a": 2}',
    }
    assert seen.traced > 50
    assert seen.writes == ()
    assert len(small_hub.log) == before


def test_what_a_client_tries_to_write_is_seen(small_hub: Hub, from_hub: Callable[[Hub], Prestage]) -> None:
    """The proof that the trace can see, and that the mount refuses."""
    prestage = from_hub(small_hub)
    assert prestage("stage", "hf://org/model").code == 0
    tree = Path(prestage("tree", "hf://org/model").out.strip())
    script = """
import errno, os
said = []
for act in (lambda at: open(at + "/new", "w"), lambda at: os.mkdir(at + "/made"), lambda at: os.unlink(at + "/config.json")):
    try:
        act(os.environ["TREE"] + "/model")
    except OSError as exc:
        said.append(errno.errorcode[exc.errno])
print(str(said).replace("'", '"'))
"""
    seen = foreign.run(tree, script, python=Path(sys.executable))
    assert len(seen.said) == 3
    assert set(seen.said) <= {"EROFS", "EACCES"}
    assert len(seen.writes) == 3


_TRANSFORMERS = """
import json, os
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

def embedded(name, **how):
    tokenizer, model = AutoTokenizer.from_pretrained(name, **how), AutoModel.from_pretrained(name, **how)
    with torch.no_grad():
        state = model(**tokenizer("weights before the pod needs them", return_tensors="pt")).last_hidden_state
    return [round(float(value), 4) for value in state.mean(dim=1)[0, :4]]

top = os.environ["TREE"]
print(json.dumps({
    "config": AutoConfig.from_pretrained("org/minilm").hidden_size,
    "id": embedded("org/minilm"),
    "branch": embedded("org/minilm", revision="v1"),
    "path": embedded(top + "/model"),
    "snapshot": embedded(top + "/.hf/models--org--minilm/snapshots/" + open(top + "/.hf/models--org--minilm/refs/main").read()),
    "second": embedded("mine/copy"),
}))
"""


@pytest.fixture
def minilm_hub(hub: Hub) -> Hub:
    """`org/minilm`: a real model, from its wheel, on a branch `v1`."""
    try:
        source = model_folder()
    except NotFound as exc:
        pytest.skip(str(exc))
    folder = hub.root / "org" / "minilm"
    shutil.copytree(source, folder / "v1")
    (folder / "README.md").write_text("main is elsewhere")
    (folder / ".hub.json").write_text(json.dumps({"branches": {"v1": "v1"}}))
    hub.reload()
    return hub


@pytest.mark.slow
def test_transformers_loads_a_real_model_offline_by_id_branch_and_path_and_writes_nothing(
    minilm_hub: Hub, from_hub: Callable[[Hub], Prestage]
) -> None:
    if not _TORCH.exists():
        pytest.skip("no torch here: make torch")
    prestage = from_hub(minilm_hub)
    ref, copy = "hf://org/minilm@v1", model_folder().as_uri()
    assert prestage("stage", ref).code == 0
    assert prestage("stage", copy).code == 0
    made = prestage("tree", f"model={ref}", f"copy={copy}", "--repo", "copy=mine/copy", "--json")
    assert made.code == 0, made.err
    before = len(minilm_hub.log)
    seen = foreign.run(Path(made.last["path"]), _TRANSFORMERS, python=_TORCH, timeout_s=280)
    vectors = [seen.said[key] for key in ("id", "branch", "path", "snapshot", "second")]
    assert seen.said["config"] == 384
    assert all(vector == vectors[0] for vector in vectors)
    assert any(vectors[0])
    assert seen.traced > 50
    assert seen.writes == ()
    assert len(minilm_hub.log) == before, "nothing was asked of the hub"
