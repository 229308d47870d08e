"""Adopt, export and import where an agent owns the store; and blobs that it serves to peers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from agents import Agent

from servers.hostile import Hostile

MODEL = "/model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 500)
    return folder


def test_what_lies_on_the_node_is_adopted_by_the_agent(agent: Agent, folder: Path) -> None:
    adopted = agent.prestage("adopt", str(folder), "--json")
    assert adopted.code == 0, adopted.err
    assert adopted.last["ref"] == folder.as_uri()
    assert (Path(adopted.last["path"]) / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    taken = agent.prestage("adopt", str(folder), "--take")
    assert taken.code == 0, taken.err
    assert not (folder / "weights.bin").exists()
    assert agent.prestage("path", folder.as_uri()).code == 0


def test_an_archive_goes_out_of_one_agents_store_and_into_anothers(agent: Agent, folder: Path, tmp_path: Path) -> None:
    artifact = agent.prestage("adopt", str(folder), "--json").last["artifact"]
    archive = tmp_path / "model.tar"
    assert agent.prestage("export", folder.as_uri(), str(archive)).code == 0
    with Agent(tmp_path / "other") as other:
        imported = other.prestage("import", str(archive), "--json")
        assert imported.code == 0, imported.err
        assert (imported.last["artifact"], imported.last["ref"]) == (artifact, folder.as_uri())
        raw = bytearray(archive.read_bytes())
        raw[len(raw) // 2] ^= 1
        archive.write_bytes(raw)
        assert other.prestage("evict", artifact).code == 0
        assert other.prestage("import", str(archive)).code == 5
        assert {row["state"] for row in json.loads(other.prestage("ls", "--json").out)} <= {"partial"}


def test_a_path_that_the_agent_cannot_see_is_named(agent: Agent, tmp_path: Path) -> None:
    with agent.stream("POST", "/v1/adopt", {"path": str(tmp_path / "nothing")}) as events:
        last = events.last()
    assert (last["event"], last["kind"]) == ("error", "misconfigured")
    assert "does not exist" in last["message"]


def test_an_agent_serves_its_blobs_to_who_has_the_token(tmp_path: Path, origin: Hostile, data: bytes) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    token.chmod(0o600)
    options = ("--serve", "127.0.0.1:0", "--serve-token-file", str(token), "--serve-workers", "1", "--serve-rate", "1G")
    with Agent(tmp_path / "store", *options) as agent:
        done = agent.stage(origin.url(MODEL))
        port = agent.ask("GET", "/v1/status").good["serving_port"]
        binding = json.loads(next((agent.root / "manifests").glob("*.binding")).read_bytes())
        url = f"http://127.0.0.1:{port}/v1/blobs/{binding['files']['model.safetensors']}"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer a-token-of-some-length"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.read() == data
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=30)
        metrics = agent.ask("GET", "/v1/status").good["metrics"]
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
        assert float(lines["prestage_served_bytes_total"]) >= len(data)
        assert done["event"] == "done"


def test_serving_without_a_token_is_refused(tmp_path: Path, agent: Agent) -> None:
    refused = agent.prestage("agent", "--serve", "127.0.0.1:0")
    assert refused.code == 2
    assert "--serve-token-file" in refused.err
