"""Trees of mounts over the agent's API, and stages of artifacts that are named by their digest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import Agent
from agents.contract import UnixConnection

from servers.hostile import Hostile

from .conftest import MODEL

NOWHERE = "sha256:" + "0" * 64


def asked(artifact: str, target: str = "/target", **more: object) -> dict[str, object]:
    return {"parts": [{"name": "m", "artifact": artifact}], "pod": "uid", "target": target, "mount_path": "/models", **more}


def test_a_tree_is_composed_once_outlives_the_agent_and_is_dropped(agent: Agent, origin: Hostile, data: bytes) -> None:
    artifact = agent.stage(origin.url(MODEL))["artifact"]
    tree = agent.ask("POST", "/v1/trees", asked(artifact)).good
    assert agent.ask("POST", "/v1/trees", asked(artifact)).good["hold"] == tree["hold"]
    assert (Path(tree["path"]) / "m/model.safetensors").read_bytes() == data
    assert agent.ask("POST", "/v1/evict", {"ref": artifact}).status == 423
    agent.kill()
    agent.start()
    [seen] = agent.ask("GET", "/v1/trees").good
    assert (seen["hold"], seen["pod"], seen["target"], seen["this_boot"]) == (tree["hold"], "uid", "/target", True)
    assert resolved_in(tree) == (200, "/models/m")  # its socket is open again
    for _ in range(2):
        assert agent.ask("DELETE", f"/v1/trees/{tree['hold']}").status == 204
    assert agent.ask("GET", "/v1/trees").good == []
    assert agent.ask("POST", "/v1/evict", {"ref": artifact}).status == 200


def resolved_in(tree: Mapping[str, Any]) -> tuple[int, str]:
    """As a pod asks: by a name that is short enough, wherever the tree is."""
    fd = os.open(tree["own"], os.O_RDONLY | os.O_DIRECTORY)
    connection = UnixConnection(Path(f"/proc/self/fd/{fd}/pod.sock"))
    try:
        connection.request("GET", "/v1/resolve?ref=m")
        response = connection.getresponse()
        return response.status, json.loads(response.read())["path"]
    finally:
        connection.close()
        os.close(fd)


def test_a_flat_tree_is_seen_at_the_mount_itself(agent: Agent, origin: Hostile, data: bytes) -> None:
    artifact = agent.stage(origin.url(MODEL))["artifact"]
    tree = agent.ask("POST", "/v1/trees", asked(artifact, flat=True)).good
    assert (Path(tree["path"]) / "model.safetensors").read_bytes() == data
    assert resolved_in(tree) == (200, "/models")


def test_pods_of_equal_volumes_share_a_tree_and_have_a_socket_each(agent: Agent, origin: Hostile) -> None:
    artifact = agent.stage(origin.url(MODEL))["artifact"]
    one, two = (agent.ask("POST", "/v1/trees", asked(artifact, f"/{name}", pod=name)).good for name in ("one", "two"))
    assert one["path"] == two["path"]
    assert one["own"] != two["own"]
    assert agent.ask("DELETE", f"/v1/trees/{one['hold']}").status == 204
    assert resolved_in(two) == (200, "/models/m")
    assert not Path(one["own"]).exists()
    assert agent.ask("POST", "/v1/evict", {"ref": artifact}).status == 423


def test_what_is_not_staged_is_not_put_together(agent: Agent) -> None:
    assert agent.ask("POST", "/v1/trees", asked(NOWHERE)).status == 404
    assert agent.ask("POST", "/v1/trees", asked(NOWHERE, target="relative")).status == 400
    assert agent.ask("DELETE", "/v1/trees/pin-0000000000000000").status == 404
    assert agent.ask("GET", "/v1/trees").good == []


def test_an_artifact_that_is_here_is_staged_by_its_digest_and_one_that_is_not_says_why_it_cannot_be(
    agent: Agent, origin: Hostile
) -> None:
    artifact = agent.stage(origin.url(MODEL))["artifact"]
    done = agent.stage(artifact)
    assert (done["event"], done["artifact"]) == ("done", artifact)
    assert done["bytes_by_source"].keys() == {"store"}
    [row] = agent.ask("GET", "/v1/artifacts").good
    assert row["ref"] == origin.url(MODEL)  # a digest is no ref to remember
    refused = agent.stage(NOWHERE)
    assert (refused["event"], refused["kind"]) == ("error", "misconfigured")
    assert "does not say where its bytes come from" in refused["message"]
    with agent.stream("POST", "/v1/stage", {"ref": artifact, "include": ["*"]}) as events:
        assert events.refused is not None
        assert events.refused.status == 400
