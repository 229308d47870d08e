"""NodeCache and node: what is planned is staged and reported, by a real agent against a real API server."""

from __future__ import annotations

import os
import signal
import time

import pytest
from agents import wait_for

from servers import faults

from .conftest import World

pytestmark = [pytest.mark.needs("kubernetes")]


def test_what_is_planned_is_staged_and_how_it_stands_is_said(world: World) -> None:
    model = world.broker.put("planned", {"config.json": b"{}", "model.safetensors": os.urandom(20 << 20)})
    world.broker.plan = {model.artifact}
    world.origin.choose = lambda request: faults.Drip(1e6)
    world.plan(model.artifact, name="first")
    staging = wait_for(lambda: entry if (entry := world.entry(model)).get("state") == "Staging" else None)
    assert staging["step"] in ("Resolve", "Download")
    world.origin.choose = lambda request: None
    wait_for(lambda: world.entry(model).get("state") == "Warm", timeout_s=90)
    status = world.status()
    assert status["observedPlan"] == "first"
    conditions = {one["type"]: one["status"] for one in status["conditions"]}  # type: ignore[attr-defined]
    assert conditions == {"Ready": "True", "DiskHealthy": "True", "OriginReachable": "True"}
    assert int(str(wait_for(lambda: world.status().get("originRateP10")))) > 0
    assert {one.message.__class__.__name__ for one in world.broker.asked} == {"ManifestRequest", "FetchesRequest"}
    assert {request.headers["x-signed"] for request in world.origin.gets() if "planned" in request.path} == {"yes"}
    writes = world.parts.agent.events()
    assert [event for event in writes if event["event"] == "status_not_written"] == []

    # released: said so, kept while there is room; an empty plan: as warm
    world.plan(model.artifact, action="Release", name="second")
    wait_for(lambda: world.entry(model).get("state") == "Releasing")
    world.plan(name="third")
    wait_for(lambda: world.status().get("observedPlan") == "third")
    wait_for(lambda: world.entry(model).get("state") == "Warm")


def test_what_an_images_container_said_is_taken_back_where_none_runs_any_more(world: World) -> None:
    world.plan(name="models-only")
    wait_for(lambda: world.status().get("observedPlan") == "models-only")
    row = {"digest": "sha256:" + "e" * 64, "type": "Image", "state": "Warm"}
    said = {"images": {"runtime": "2.1.9", "snapshotter": "overlayfs"}, "artifacts": [row]}
    path = f"/apis/prestage.dev/v1alpha1/nodecaches/{world.node}/status?fieldManager=prestage-images&force=true"
    body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": world.node}, "status": said}
    assert world.api.ask(path, method="PATCH", body=body, kind="application/apply-patch+yaml") is not None
    wait_for(lambda: "images" not in world.status())
    status = world.status()
    assert row["digest"] not in str(status)
    assert status["storeID"], "what the agent said itself stays"


def test_what_fails_is_said_by_class_and_code_and_is_staged_once_it_can_be(world: World) -> None:
    model = world.broker.put("gone", {"a.bin": os.urandom(1000)}, served=False)
    world.plan(model.artifact, name="fails")
    wait_for(lambda: world.entry(model).get("state") == "Failed", timeout_s=60)
    entry = world.entry(model)
    assert entry["errorClass"] in ("Unavailable", "NotFound")
    world.serve_again(model)
    world.plan(model.artifact, name="again")
    wait_for(lambda: world.entry(model).get("state") == "Warm", timeout_s=60)


def test_an_agent_that_starts_while_the_api_server_is_away_goes_on_with_the_last_plan(world: World) -> None:
    model = world.broker.put("kept", {"model.safetensors": os.urandom(30 << 20)})
    world.origin.choose = lambda request: faults.Drip(1e6)
    world.plan(model.artifact, name="kept")
    wait_for(lambda: world.entry(model).get("state") == "Staging")
    world.parts.agent.stop(signal.SIGKILL)
    for wish in (world.parts.root / "wishes").glob("*.json"):
        wish.unlink()  # by the plan alone
    world.api.down()
    try:
        world.origin.choose = lambda request: None
        world.parts.agent.start("agent_ready")
        world.parts.agent.wait_for("staged", artifact=model.artifact)
    finally:
        world.api.up()
    wait_for(lambda: world.entry(model).get("state") == "Warm", timeout_s=60)


def test_a_node_at_rest_writes_no_more_than_its_heartbeat(world: World) -> None:
    first = world.status().get("heartbeatAt")
    versions = set()
    ends_s = time.monotonic() + 8
    while time.monotonic() < ends_s:
        seen = world.api.ask(f"/apis/prestage.dev/v1alpha1/nodecaches/{world.node}")
        assert isinstance(seen, dict)
        versions.add(seen["metadata"]["resourceVersion"])
        time.sleep(0.5)
    assert len(versions) <= 2, (first, versions)


def taints(world: World) -> list[str]:
    seen = world.api.ask(f"/api/v1/nodes/{world.node}")
    assert isinstance(seen, dict)
    return [one["key"] for one in seen["spec"].get("taints", [])]


@pytest.mark.slow
def test_a_new_node_keeps_its_taint_until_it_is_filled(world: World) -> None:
    model = world.broker.put("first", {"model.safetensors": os.urandom(8 << 20)})
    world.broker.plan = {model.artifact}
    world.origin.choose = lambda request: faults.Drip(5e5)
    kept = {"key": "example.org/kept", "effect": "NoSchedule"}
    spec = {"taints": [{"key": "prestage.dev/starting", "effect": "NoSchedule"}, kept]}
    world.parts.agent.stop(signal.SIGKILL)  # it looks for the taint when it starts
    assert world.api.ask("/api/v1/nodes", method="POST", body={"metadata": {"name": world.node}, "spec": spec})
    try:
        world.plan(model.artifact, name="fill")
        world.parts.agent.start("agent_ready")
        wait_for(lambda: world.entry(model).get("state") == "Staging")
        assert "prestage.dev/starting" in taints(world)
        world.origin.choose = lambda request: None
        lifted = world.parts.agent.wait_for("startup_taint_lifted")
        assert lifted["why"] == "filled"
        assert world.parts.agent.wait_for("staged", artifact=model.artifact)["time"] <= lifted["time"]
        assert "prestage.dev/starting" not in taints(world)
        assert "example.org/kept" in taints(world)
    finally:
        world.api.ask(f"/api/v1/nodes/{world.node}", method="DELETE")
