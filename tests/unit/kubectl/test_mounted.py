"""What stands in the way of an uninstall."""

from __future__ import annotations

from prestage.kubectl.mounted import MountedPod, mounted_pods


def pod(name: str, *, driver: str = "prestage.dev", node: str | None = "n1", phase: str = "Running") -> dict[str, object]:
    spec = {"volumes": [{"name": "t", "emptyDir": {}}, {"name": "m", "csi": {"driver": driver}}], "nodeName": node}
    return {"metadata": {"name": name, "namespace": "team-a"}, "spec": spec, "status": {"phase": phase}}


def test_pods_that_a_kubelet_has_count_and_no_others() -> None:
    pods: list[dict[str, object]] = [
        pod("running"),
        pod("starting", phase="Pending"),
        pod("gated", node=None, phase="Pending"),
        pod("done", phase="Succeeded"),
        pod("foreign", driver="other.example"),
        {"metadata": {"name": "bare"}, "spec": {}},
    ]
    assert mounted_pods(pods) == [MountedPod("team-a", "running", "n1"), MountedPod("team-a", "starting", "n1")]
