"""Pods on a real kubelet with a model in an inline volume: warm, cold, and through kills of every part."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from agents import wait_for

from servers import faults

from .conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node")]
REF = "hf://org/llama@main"
WEIGHTS = os.urandom(3 << 20)
CONTENTS = {"config.json": b"{}", "model.safetensors": WEIGHTS}


def test_a_pod_reads_a_staged_model_as_another_user_and_ends(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant("default", REF, model)
    world.broker.plan = {model.artifact}
    world.plan(model.artifact)
    world.parts.agent.wait_for("staged", artifact=model.artifact)
    world.pod("warm", {"model.prestage.dev/llama": REF, "artifact.prestage.dev/llama": model.artifact})
    world.ready("warm")
    assert world.run("warm", "id", "-u").strip() == "1000"
    assert world.run("warm", "sha256sum", "/models/llama/model.safetensors").split()[0] == hashlib.sha256(WEIGHTS).hexdigest()
    assert world.run("warm", "cat", "/models/.hf/models--org--llama/refs/main") == "a" * 40
    assert world.run("warm", "sh", "-c", "touch /models/x 2>&1 || true").strip().endswith("Read-only file system")
    world.run("warm", "test", "-S", "/models/.prestage/pod.sock")
    assert [Path(target).name for target in world.mounts()] == ["mount", ".prestage"]
    world.delete("warm")
    assert world.mounts() == []
    [asked] = world.broker.questions("/v1/mounts")
    assert len(asked.message.pod_token) > 500  # type: ignore[attr-defined]


def test_a_pod_whose_model_is_not_there_waits_and_starts_when_it_has_come(world: World) -> None:
    model = world.broker.put("late", {"model.safetensors": os.urandom(24 << 20)})
    world.broker.grant("default", "hf://org/late@main", model)
    world.broker.plan = set()
    world.origin.choose = lambda request: faults.Drip(4e6) if "late" in request.path else None
    world.pod("cold", {"model.prestage.dev/late": "hf://org/late@main"})
    wait_for(lambda: world.broker.questions("/v1/manifest") or world.broker.questions("/v1/mounts"))
    assert world.cluster.kubectl("get", "pod", "cold", "-o", "jsonpath={.status.phase}") == "Pending"
    world.broker.plan = {model.artifact}
    world.ready("cold", 90)
    assert world.run("cold", "wc", "-c", "/models/late/model.safetensors").split()[0] == str(24 << 20)
    world.delete("cold")


def test_kills_of_driver_agent_and_kubelet_leave_a_pod_its_model_and_it_can_be_deleted(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant("default", REF, model)
    world.broker.plan = None
    attributes = {"model.prestage.dev/llama": REF, "prestage.dev/layout": "Flat"}
    world.pod("kept", attributes)
    world.ready("kept")
    for part, ready in ((world.parts.csi, "csi_ready"), (world.parts.agent, "agent_ready")):
        part.stop(signal.SIGKILL)
        assert world.run("kept", "cat", "/models/config.json") == "{}"
        part.start(ready)
        assert world.run("kept", "cat", "/models/config.json") == "{}"
    world.cluster.nodes[0].kill("kubelet")
    world.parts.csi.wait_for("registered")
    assert wait_for(lambda: world.cluster.api.try_kubectl("exec", "kept", "--", "cat", "/models/config.json").stdout) == "{}"
    world.run("kept", "test", "-S", "/models/.prestage/pod.sock")
    world.pod("after", attributes)
    world.ready("after")
    world.parts.agent.stop(signal.SIGKILL)
    world.delete("kept")  # without the agent
    world.parts.agent.start("agent_ready")
    world.delete("after")
    assert world.mounts() == []


def test_a_forged_token_and_a_foreign_ref_leave_a_pod_waiting_and_say_why(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant("default", REF, model)
    forged = {"csi.storage.k8s.io/serviceAccount.tokens": '{"prestage.dev": {"token": "forged"}}'}
    world.pod("forging", {"model.prestage.dev/llama": REF, **forged})
    world.ready("forging")  # the real one counts, which travels in secrets
    world.pod("foreign", {"model.prestage.dev/secret": "hf://org/secret"})

    def told() -> bool:
        events = world.cluster.kubectl("get", "events", "--field-selector=involvedObject.name=foreign", "-o", "json")
        return "default has no grant for hf://org/secret" in events

    assert wait_for(told)
    for name in ("forging", "foreign"):
        world.delete(name)
