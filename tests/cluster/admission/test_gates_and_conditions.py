"""What runs beside the planner, with the planner's rights, on a real API server: gates go, pods are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import cast

import pytest
from click.testing import CliRunner
from pods.objects import KUEUE, LLAMA

from cluster.apiserver import ApiServer
from cluster.pods import Admission, Scene, created, leader, opened
from prestage.control.cli import control
from prestage.control.gates.preference import place
from prestage.control.podspec import gates_of
from prestage.kube.client import KubeApi
from prestage.kube.ports import Object, Selection
from prestage.kube.resources import NODE_CACHES, PODS
from prestage.kube.settings import KubeSettings
from prestage.kubectl.cli import kubectl_prestage

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
GATE: Object = {"name": "prestage.dev/warm"}


@pytest.fixture
def scene(admission: Admission) -> Scene:
    return Scene(admission.api, opened(admission.api, "enabled"))


def until(scene: Scene, name: str, expected: list[str]) -> dict[str, dict[str, object]]:
    scene.api.processes.wait_for(lambda: gates_of(scene.stored(name)) == expected, what=f"gates {expected}", timeout_s=60)
    return scene.stored(name)


def test_the_last_byte_releases_the_gate_with_the_preference_and_the_pod_is_told(api: ApiServer, scene: Scene) -> None:
    with leader(api):
        mine = place({"metadata": {"uid": scene.uid}})
        label = "jsonpath={.metadata.labels.prestage\\.dev/place}"
        api.processes.wait_for(lambda: api.kubectl("get", "node", scene.node, "-o", label) == mine, what="the node's label")
        scene.state("Staging")
        created(api, scene.namespace, scene.pod("p", None, GATE))
        staging = "--for=jsonpath={.status.conditions[?(@.type=='prestage.dev/Warm')].reason}=Staging"
        api.kubectl("wait", staging, "pod/p", "-n", scene.namespace, "--timeout=60s")
        assert gates_of(scene.stored("p")) == ["prestage.dev/warm"]
        before = scene.stored("p")["metadata"]["generation"]
        took_s = _released_after(scene)
        api.kubectl("wait", "--for=condition=prestage.dev/Warm", "pod/p", "-n", scene.namespace, "--timeout=60s")
        seen = scene.stored("p")
        assert mine in json.dumps(seen["spec"]["affinity"])
        assert seen["metadata"]["generation"] == cast(int, before) + 1, "gate and preference in one write of the spec"
        assert took_s < 30, "by the watch, not by a look each minute"
        staging, warm = api.processes.wait_for(lambda: _notes(scene, 2), what="the events")
        assert staging.startswith(f"Staging on {scene.node}, about ")
        assert warm == "Warm on 1 node"
        words = ["why", "p", "-n", scene.namespace, "--kubeconfig", str(api.kubeconfig), "--json"]
        explained = {one["about"]: one["says"] for one in json.loads(CliRunner().invoke(kubectl_prestage, words).output)}
        assert explained["condition"].startswith("Warm since ")
        assert explained["nodes"].endswith(f"is warm on {scene.node}")


def _released_after(scene: Scene) -> float:
    """Seconds from the agent's word to the gate's end, by the API server's watch."""

    async def work() -> float:
        async with await KubeApi.connect(KubeSettings(kubeconfig=scene.api.kubeconfig)) as client:
            pods = Selection(scene.namespace)
            since = (await client.page(PODS, pods)).resource_version
            warm = {"status": {"artifacts": [{"digest": scene.digest, "state": "Warm"}]}}
            began_s = time.monotonic()
            await client.patch(NODE_CACHES, scene.node, warm, subresource="status")
            async with contextlib.aclosing(client.watch(PODS, pods, since, lasting_s=45)) as events:
                async for event in events:
                    if gates_of(event.object) == []:
                        return time.monotonic() - began_s
        raise AssertionError("it was never released")

    return asyncio.run(work())


def _notes(scene: Scene, count: int) -> list[str] | None:
    listed = json.loads(scene.api.kubectl("get", "events", "-n", scene.namespace, "-o", "json"))["items"]
    notes = sorted(str(one["message"]) for one in listed if one["involvedObject"]["name"] == "p")
    return notes if len(notes) >= count else None


def test_gates_go_where_they_do_not_help_and_wait_for_kueues(api: ApiServer, scene: Scene) -> None:
    with leader(api):
        scene.state("Staging")
        created(api, scene.namespace, scene.pod("kueue", None, KUEUE, GATE))
        elsewhere = scene.pod("elsewhere", None, GATE)
        cast("dict[str, object]", elsewhere["spec"])["nodeSelector"] = {"scene": "none"}
        created(api, scene.namespace, elsewhere)
        until(scene, "elsewhere", [])
        assert gates_of(scene.stored("kueue")) == ["kueue.x-k8s.io/admission", "prestage.dev/warm"]
        api.kubectl("cordon", scene.node)
        time.sleep(0.5)
        assert len(gates_of(scene.stored("kueue"))) == 2
        step = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
        api.kubectl("patch", "pod", "kueue", "-n", scene.namespace, "--type=json", "-p", json.dumps(step))
        until(scene, "kueue", [])


def test_on_timeout_fail_fails_the_pod(api: ApiServer, scene: Scene) -> None:
    annotations = {"model.prestage.dev/llama": LLAMA, "prestage.dev/gate-timeout": "2s", "prestage.dev/on-timeout": "Fail"}
    with leader(api):
        cache = {"status": {"artifacts": [{"digest": scene.digest, "state": "Staging"}], "originRateP10": "1G"}}
        api.kubectl("patch", "nodecache", scene.node, "--subresource=status", "--type=merge", "-p", json.dumps(cache))
        created(api, scene.namespace, scene.pod("p", annotations, GATE))
        api.processes.wait_for(lambda: scene.stored("p")["status"].get("phase") == "Failed", what="the pod's end", timeout_s=60)
        status = scene.stored("p")["status"]
        assert status["reason"] == "NotWarmInTime"
        assert "prestage.dev/gate-timeout (2 s)" in str(status["message"])


def test_mistakes_that_came_in_without_us_are_told_by_condition_and_event(api: ApiServer, scene: Scene) -> None:
    with leader(api):
        created(api, scene.namespace, scene.pod("p", {"model.prestage.dev/llama": LLAMA, "prestage.dev/layot": "x"}))
        reason = "--for=jsonpath={.status.conditions[?(@.type=='prestage.dev/Warm')].reason}=Misconfigured"
        api.kubectl("wait", reason, "pod/p", "-n", scene.namespace, "--timeout=60s")
        [note] = api.processes.wait_for(lambda: _notes(scene, 1), what="the event")
        assert "prestage.dev/layot: there is no such annotation" in note


def test_the_uninstall_takes_every_gate_off(api: ApiServer, scene: Scene) -> None:
    for name in ("a", "b"):
        created(api, scene.namespace, scene.pod(name, None, KUEUE, GATE))
    done = CliRunner().invoke(control, ["ungate", "--kubeconfig", str(api.kubeconfig)])
    assert done.exit_code == 0, done.output
    assert "released" in done.output
    assert [gates_of(scene.stored(name)) for name in ("a", "b")] == [["kueue.x-k8s.io/admission"]] * 2
