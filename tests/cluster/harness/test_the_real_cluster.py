"""The cluster that other tests stand on is real, comes back, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.apiserver import ApiServer
from cluster.whole import Cluster

KUBETEST = Path(__file__).parents[1] / "kubetest"


@pytest.mark.needs("kubernetes")
def test_an_api_server_is_the_version_that_go_mod_pins(api_server: ApiServer) -> None:
    version = api_server.ask("/version")
    assert isinstance(version, dict)
    assert f"k8s.io/kubernetes {version['gitVersion']}" in (KUBETEST / "go.mod").read_text()


@pytest.mark.needs("kubernetes")
def test_what_an_api_server_stored_is_there_after_it_was_killed(api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)
    api_server.down()
    assert api_server.try_kubectl("get", "ns", "--request-timeout=2s").returncode != 0
    api_server.up()
    assert api_server.kubectl("get", "configmap", "kept", "-n", namespace, "-o", "jsonpath={.data.a}") == "b"


@pytest.mark.needs("kubernetes")
def test_an_api_server_runs_on_kine_too(tmp_path: Path) -> None:
    with ApiServer(tmp_path, storage="kine") as api:
        assert "default" in api.kubectl("get", "namespaces")


@pytest.mark.slow
@pytest.mark.needs("kubernetes-node")
def test_a_pod_runs_on_a_real_node_through_a_kill_of_kubelet_and_containerd(two_nodes: Cluster) -> None:
    node = two_nodes.nodes[1]
    two_nodes.kubectl("run", "it", f'--overrides={{"spec":{{"nodeName":"{node.name}"}}}}', *IMAGE, "--", "sleep", "600")
    two_nodes.kubectl("wait", "--for=condition=Ready", "pod/it", "--timeout=60s")
    address = two_nodes.kubectl("get", "pod", "it", "-o", "jsonpath={.status.podIP}")
    for what in ("kubelet", "containerd"):
        node.kill(what)
    other = two_nodes.nodes[0].enter("/bin/busybox", "ping", "-c1", "-W5", address)
    assert subprocess.run(other, capture_output=True, timeout=30, check=False).returncode == 0
    assert two_nodes.api.processes.wait_for(
        lambda: two_nodes.api.try_kubectl("exec", "it", "--", "/bin/busybox", "hostname").stdout, what="exec after the kill"
    )


@pytest.mark.slow
@pytest.mark.needs("kubernetes-node")
def test_nothing_of_a_cluster_is_left_when_it_ends(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        name = f"kt{cluster.ip.split('.')[1]}"
        assert (_INTERFACES / name).exists()
        assert list(_CGROUPS.glob(f"**/{name}"))
    assert not (_INTERFACES / name).exists()
    assert list(_CGROUPS.glob(f"**/{name}")) == []


IMAGE = ("--image=localhost/kubetest/pause:1", "--image-pull-policy=Never", "--command")
_INTERFACES, _CGROUPS = Path("/sys/class/net"), Path("/sys/fs/cgroup")
