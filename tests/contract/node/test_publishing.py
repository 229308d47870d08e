"""The driver on its socket, with a real agent, a real API server that knows the pods' tokens, and a broker."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from agents import wait_for

from prestage.cacher.agent.client import AgentClient
from prestage.node.csi.mountinfo import mount_table
from prestage.wire import csi_pb2 as csi
from servers import faults

from .conftest import World, tokens

pytestmark = [pytest.mark.needs("kubernetes", "mount", "root")]
REF = "hf://org/llama@main"
ATTRIBUTES = {"model.prestage.dev/llama": REF}
_NAMES = itertools.count()
CONTENTS = {"config.json": b"{}", "sub/model.safetensors": os.urandom(300_000)}


def mounted(target: Path) -> int:
    return sum(point.target == str(target) for point in mount_table())


def test_a_pod_gets_what_it_may_have_read_only_and_lets_go_of_it(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant(world.pods.namespace, REF, model)
    uid = world.pods.make(one := f"one-{next(_NAMES)}")
    target, context = world.pods.target(uid), world.pods.context(one, uid, ATTRIBUTES)
    token = tokens(world.pods.token(one, uid))
    world.driver.publish(target, context, secrets=token)
    assert (target / "llama/sub/model.safetensors").read_bytes() == CONTENTS["sub/model.safetensors"]
    assert (target / ".hf/models--org--llama/refs/main").read_text() == "a" * 40
    assert (target / ".prestage/llama/sums").exists()
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("x")
    script = f"import os; os.setgid(1000); os.setuid(1000); print(len(open({str(target / 'llama/config.json')!r}).read()))"
    assert not (world.parts.root.stat().st_mode & 0o077)  # others see it by the mount only
    for folder in (world.parts.folder, world.parts.kubelet):
        folder.chmod(0o755)
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd="/").stdout == b"2\n"
    asked = len(world.broker.asked)
    world.broker.down = True
    world.driver.publish(target, context)  # no token, no broker: it is there
    assert mounted(target) == 1
    assert len(world.broker.asked) == asked
    for _ in range(2):
        world.driver.unpublish(target)
    assert mounted(target) == 0
    assert not target.exists()
    assert world.trees() == []
    event = world.parts.csi.wait_for("mounted")
    assert (event["namespace"], event["artifact"], event["pod"]) == (world.pods.namespace, model.artifact, uid)


def test_what_is_kept_serves_pods_while_broker_and_api_server_are_away(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant(world.pods.namespace, REF, model)
    world.broker.fresh_s = 0.0
    attributes = {**ATTRIBUTES, "artifact.prestage.dev/llama": model.artifact}
    uids = [world.pods.make(f"pod-{number}") for number in range(3)]
    secrets = [tokens(world.pods.token(f"pod-{number}", uid)) for number, uid in enumerate(uids)]
    targets = [world.pods.target(uid) for uid in uids]
    contexts = [world.pods.context(f"pod-{number}", uid, attributes) for number, uid in enumerate(uids)]
    world.driver.publish(targets[0], contexts[0], secrets=secrets[0])
    world.broker.down = True
    world.driver.publish(targets[1], contexts[1], secrets=secrets[1])
    world.api.down()
    try:
        world.driver.publish(targets[2], contexts[2], secrets=secrets[2], timeout_s=40)
    finally:
        world.api.up()
    for target in targets:
        assert (target / "llama/config.json").read_bytes() == b"{}"
        world.driver.unpublish(target)


def test_access_that_ends_stops_new_mounts_and_leaves_those_that_are_there(world: World) -> None:
    model, ref = world.broker.put("ends", {"config.json": b"[]"}), "hf://org/ends@main"  # what others asked is fresh for an hour
    world.broker.grant(world.pods.namespace, ref, model)
    world.broker.fresh_s = 0.0
    attributes = {"model.prestage.dev/ends": ref, "artifact.prestage.dev/ends": model.artifact}
    names = [f"ends-{next(_NAMES)}" for _ in range(2)]
    uids = [world.pods.make(name) for name in names]
    secrets = [tokens(world.pods.token(name, uid)) for name, uid in zip(names, uids, strict=True)]
    targets = [world.pods.target(uid) for uid in uids]
    contexts = [world.pods.context(name, uid, attributes) for name, uid in zip(names, uids, strict=True)]
    world.driver.publish(targets[0], contexts[0], secrets=secrets[0])
    del world.broker.grants[world.pods.namespace, ref]
    with pytest.raises(grpc.RpcError) as caught:
        world.driver.publish(targets[1], contexts[1], secrets=secrets[1], timeout_s=10)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert mounted(targets[1]) == 0
    world.driver.publish(targets[0], contexts[0], secrets=secrets[0])
    assert (targets[0] / "ends/config.json").read_bytes() == b"[]", "the pod that has it keeps it"
    world.driver.unpublish(targets[0])


def test_nobody_gets_what_is_not_granted_or_asks_with_a_token_that_is_not_his(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant(world.pods.namespace, REF, model)
    uid, other = world.pods.make(one := f"one-{next(_NAMES)}"), world.pods.make(two := f"other-{next(_NAMES)}")
    own, foreign = tokens(world.pods.token(one, uid)), tokens(world.pods.token(two, other))
    wrong_audience = tokens(world.pods.token(one, uid, audience="elsewhere"))
    target, context = world.pods.target(uid), world.pods.context(one, uid, ATTRIBUTES)

    def refused(context: dict[str, str], secrets: dict[str, str]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            world.driver.publish(target, context, secrets=secrets, timeout_s=10)
        assert mounted(target) == 0
        return caught.value.code(), caught.value.details()

    denied = grpc.StatusCode.PERMISSION_DENIED
    assert refused(context, {})[0] is denied
    code, why = refused(context, foreign)
    assert (code, "it is not bound to that pod" in why) == (denied, True)
    assert refused(context, wrong_audience)[0] is denied
    assert refused(context, tokens("forged"))[0] is denied
    assert refused({**context, **tokens(world.pods.token(one, uid))}, foreign)[0] is denied  # the attribute is forged
    assert refused({**context, "model.prestage.dev/llama": "hf://org/secret"}, own)[0] is denied
    assert refused({**context, "artifact.prestage.dev/llama": "sha256:" + "0" * 64}, own)[0] is denied
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    code, why = refused({**context, "unknown": "x"}, own)
    assert (code, "'unknown', which means nothing here" in why) == (invalid, True)
    assert refused({**context, "model.prestage.dev/..": REF}, own)[0] is invalid
    assert refused({**context, "model.prestage.dev/llama": "file:///etc"}, own)[0] is invalid
    assert world.broker.questions("/v1/fetches") == []


def test_a_publish_of_what_is_not_there_waits_and_says_how_it_goes(world: World) -> None:
    model = world.broker.put("llama", {"model.safetensors": os.urandom(40 << 20)})
    world.broker.grant(world.pods.namespace, REF, model)
    world.origin.choose = lambda request: faults.Drip(1e6)
    uid = world.pods.make(one := f"one-{next(_NAMES)}")
    target, context = world.pods.target(uid), world.pods.context(one, uid, ATTRIBUTES)
    token = tokens(world.pods.token(one, uid))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        world.driver.publish(target, context, secrets=token, timeout_s=15)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 12 < time.monotonic() - began < 15
    assert caught.value.details().startswith("llama: Staging "), caught.value.details()
    assert " %, " in caught.value.details()
    assert caught.value.details().endswith("from origin")
    [stage] = world.parts_stages()
    assert (stage["ref"], stage["priority"], stage["state"]) == (model.artifact, "waiting-pod", "running")
    world.origin.choose = lambda request: None
    world.driver.publish(target, context, secrets=token, timeout_s=60)
    assert (target / "llama/model.safetensors").stat().st_size == 40 << 20
    world.driver.unpublish(target)


def test_kills_of_agent_and_driver_leave_mounts_and_lose_nothing(world: World) -> None:
    model = world.broker.put("llama", CONTENTS)
    world.broker.grant(world.pods.namespace, REF, model)
    uid = world.pods.make(one := f"one-{next(_NAMES)}")
    target, context = world.pods.target(uid), world.pods.context(one, uid, ATTRIBUTES)
    world.driver.publish(target, context, secrets=tokens(world.pods.token(one, uid)))
    for part, ready in ((world.parts.csi, "csi_ready"), (world.parts.agent, "agent_ready")):
        part.stop(signal.SIGKILL)
        assert (target / "llama/config.json").read_bytes() == b"{}"
        part.start(ready)
    world.driver.publish(target, context)
    assert mounted(target) == 1
    assert wait_for(lambda: (target / ".prestage/pod.sock").is_socket())
    world.parts.agent.stop(signal.SIGKILL)
    world.driver.unpublish(target)  # pods end without the agent
    assert mounted(target) == 0
    world.parts.agent.start("agent_ready")
    [tree] = world.trees()
    assert tree["target"] == str(target)  # settled once it is older than a publish lasts
    AgentClient(world.parts.agent_socket).call("DELETE", f"/v1/trees/{tree['hold']}")


def test_layouts(world: World) -> None:
    model, plain = world.broker.put("llama", CONTENTS), world.broker.put("plain", {"a": b"1"}, hub=False)
    world.broker.grant(world.pods.namespace, REF, model)
    world.broker.grant(world.pods.namespace, "s3://plain/", plain)
    uid = world.pods.make(one := f"one-{next(_NAMES)}")
    target, token = world.pods.target(uid), tokens(world.pods.token(one, uid))
    flat = world.pods.context(one, uid, {**ATTRIBUTES, "prestage.dev/layout": "Flat"})
    world.driver.publish(target, flat, secrets=token)
    assert (target / "config.json").read_bytes() == b"{}"
    assert (target / ".prestage/sums").exists()
    world.driver.unpublish(target)
    two = {**ATTRIBUTES, "model.prestage.dev/plain": "s3://plain/", "prestage.dev/layout": "HuggingFace"}
    world.driver.publish(target, world.pods.context(one, uid, two), secrets=token)
    assert (target / "plain/a").read_bytes() == b"1"
    assert sorted(path.name for path in (target / ".hf").iterdir()) == ["models--org--llama"]
    world.driver.unpublish(target)
    none = {"model.prestage.dev/plain": "s3://plain/", "prestage.dev/layout": "HuggingFace"}
    with pytest.raises(grpc.RpcError, match="no model of this volume came from a hub"):
        world.driver.publish(target, world.pods.context(one, uid, none), secrets=token)


def test_it_says_who_it_is(world: World) -> None:
    info = world.driver.call("Identity/GetPluginInfo", csi.GetPluginInfoRequest(), csi.GetPluginInfoResponse)
    assert info.name == "prestage.dev"
    assert world.driver.call("Identity/Probe", csi.ProbeRequest(), csi.ProbeResponse).ready.value
    node = world.driver.call("Node/NodeGetInfo", csi.NodeGetInfoRequest(), csi.NodeGetInfoResponse)
    assert node.node_id == world.node
