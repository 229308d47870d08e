"""What goes away, and who does not notice: broker and planner, the origin, the node's processes, the kubelet."""

from __future__ import annotations

import json

import pytest
from story import Story, deployment

from cluster.installed import IMAGE
from cluster.network import run

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw")]

AWAY = ("broker", "planner")


@pytest.fixture(scope="module")
def steady(story: Story) -> Story:
    """A Deployment that is up: its second pod was admitted with its artifact, so that the grant for it is known on the node."""
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("steady"))
    story.available("steady")
    story.cluster.kubectl("scale", "deployment/steady", "-n", "demo", "--replicas=2")
    story.available("steady")
    return story


def scaled(story: Story, replicas: int) -> None:
    names = [f"deployment/prestage-{part}" for part in AWAY]
    story.cluster.kubectl("scale", "-n", "prestage", *names, f"--replicas={replicas}")
    if not replicas:
        parts = f"app.kubernetes.io/component in ({', '.join(AWAY)})"
        story.cluster.kubectl("wait", "pod", "-n", "prestage", "-l", parts, "--for=delete", "--timeout=120s")


def test_a_warm_pod_starts_while_broker_planner_and_origin_are_away(steady: Story) -> None:
    steady.origin.program.pause()
    scaled(steady, 0)
    try:
        steady.cluster.kubectl("scale", "deployment/steady", "-n", "demo", "--replicas=3")
        steady.available("steady", timeout_s=120)
    finally:
        scaled(steady, 1)
        steady.origin.program.resume()
    assert [steady.answer(pod)["sums"] for pod in steady.pods("steady")] == [steady.sums] * 3
    steady.installed.all_ready()


def test_what_dies_on_a_node_comes_back_and_running_pods_do_not_notice(steady: Story) -> None:
    kubectl, [node] = steady.cluster.kubectl, steady.cluster.nodes
    before = {pod["metadata"]["name"] for pod in steady.pods("steady")}
    [pod] = steady.parts("node")
    steady.killed(pod)
    node.kill("kubelet")
    assert [steady.answer(pod)["sums"] for pod in steady.pods("steady")] == [steady.sums] * len(before)
    kubectl("scale", "deployment/steady", "-n", "demo", f"--replicas={len(before) + 1}")
    steady.available("steady", timeout_s=120)
    steady.installed.ready("daemonset/prestage-node")
    after = {pod["metadata"]["name"]: pod for pod in steady.pods("steady")}
    assert before < set(after)
    assert [steady.answer(pod)["sums"] for pod in after.values()] == [steady.sums] * len(after)
    assert all(status["restartCount"] == 0 for pod in after.values() for status in pod["status"]["containerStatuses"])


def test_what_was_mounted_is_gone_with_its_pods(steady: Story) -> None:
    steady.cluster.kubectl("delete", "deployment", "steady", "-n", "demo", "--timeout=120s")
    steady.cluster.kubectl("wait", "pod", "-n", "demo", "-l", "app=steady", "--for=delete", "--timeout=120s")
    [node] = steady.cluster.nodes
    assert "kubernetes.io~csi" not in run(*node.enter("/bin/cat", "/proc/self/mountinfo"))
    assert run(*node.enter("/bin/ls", "/mnt/prestage/store/mounts")).split() == []


def test_a_disk_that_did_not_mount_is_seen_by_what_runs_before_the_agent(story: Story) -> None:
    """That it lets a mounted one pass shows in that the node's pod is up."""
    root = "/var/lib/folder"
    mounts = [{"name": "store", "mountPath": root, "readOnly": True}]
    container = {"name": "look", "image": f"{IMAGE}:test", "imagePullPolicy": "Never", "volumeMounts": mounts}
    spec = {
        "restartPolicy": "Never",
        "containers": [{**container, "args": ["node", "mountpoint", f"--root={root}"]}],
        "volumes": [{"name": "store", "hostPath": {"path": root, "type": "DirectoryOrCreate"}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look"}, "spec": spec}
    story.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    story.cluster.kubectl("wait", "pod/look", "--for=jsonpath={.status.phase}=Failed", "--timeout=120s")
    assert "no disk is mounted there" in story.cluster.kubectl("logs", "look")
    story.cluster.kubectl("delete", "pod", "look", "--timeout=120s")
