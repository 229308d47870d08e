"""What huggingface_hub downloaded from a hub is adopted offline; a later stage of the revision finds everything here."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bringing import read_folder, write_folder
from commands import Prestage

from servers.hub import Hub

FILES = {
    "config.json": b'{"model_type": "x"}',
    "sub/model.safetensors": random.Random(8).randbytes(3_000_001),
    "empty.txt": b"",
}
_DOWNLOAD = (
    "import sys; from huggingface_hub import snapshot_download as get; get('org/model', allow_patterns=sys.argv[1:] or None)"
)


@pytest.fixture
def offered(prestage: Prestage, hub: Hub) -> Prestage:
    write_folder(hub.root / "org" / "model", FILES)
    hub.reload()
    home = str(prestage.root.parent / "hf")
    return replace(prestage, env={**prestage.env, "HF_ENDPOINT": hub.endpoint, "HF_HOME": home})


def download(prestage: Prestage, *patterns: str) -> Path:
    environ = {**os.environ, **prestage.env, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run([sys.executable, "-c", _DOWNLOAD, *patterns], env=environ, check=True, timeout=120, capture_output=True)
    return Path(prestage.env["HF_HOME"]) / "hub" / "models--org--model"


@pytest.mark.parametrize("take", [False, True], ids=["left there", "taken"])
def test_the_artifact_is_that_of_a_stage_which_then_fetches_nothing(take: bool, offered: Prestage, hub: Hub) -> None:
    repository = download(offered)
    asked = len(hub.log)
    adopted = offered("adopt", str(repository), *(["--take"] if take else []), "--json")
    assert adopted.code == 0, adopted.err
    assert len(hub.log) == asked, "the hub was asked"
    assert adopted.last["ref"] == "hf://org/model@main"
    assert adopted.last["notes"] == []
    staged = offered("stage", "hf://org/model@main", "--json")
    assert staged.last["artifact"] == adopted.last["artifact"]
    assert staged.last["bytes_by_source"] == {"store": sum(map(len, FILES.values()))}
    assert read_folder(Path(staged.last["path"])) == FILES
    assert offered("path", "hf://org/model@main").out.strip() == adopted.last["path"]


def test_of_a_part_only_the_rest_is_fetched(offered: Prestage) -> None:
    adopted = offered("adopt", str(download(offered, "*.safetensors")), "--json")
    assert adopted.code == 0, adopted.err
    assert "a part of" in adopted.last["notes"][0]
    staged = offered("stage", "hf://org/model@main", "--json")
    assert staged.last["bytes_by_source"] == {"origin": len(FILES["config.json"]), "store": len(FILES["sub/model.safetensors"])}


def test_a_person_is_told_what_it_is_known_as(offered: Prestage) -> None:
    adopted = offered("adopt", str(download(offered)))
    assert adopted.code == 0
    assert "known as hf://org/model@main" in adopted.err
    assert Path(adopted.out.splitlines()[-1]).is_dir()
