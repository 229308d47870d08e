"""The node's two processes on a real node: in its namespaces, but for the network, so that they reach the test's broker."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodes import NodeParts

from cluster import images
from cluster.kinds import install
from cluster.whole import Cluster
from prestage.node.csi.mountinfo import parse
from servers.broker import Broker
from servers.hostile import Hostile

IMAGE = "localhost/kubetest/reader:1"
DRIVER = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "CSIDriver",
    "metadata": {"name": "prestage.dev"},
    "spec": {
        "attachRequired": False,
        "podInfoOnMount": True,
        "volumeLifecycleModes": ["Ephemeral"],
        "fsGroupPolicy": "None",
        "tokenRequests": [{"audience": "prestage.dev"}],
        "serviceAccountTokenInSecrets": True,
    },
}


@dataclass
class World:
    """A cluster whose one node mounts."""

    cluster: Cluster
    parts: NodeParts
    broker: Broker

    @property
    def origin(self) -> Hostile:
        """Where the bytes of models are."""
        return self.broker.origin

    def plan(self, *artifacts: str) -> None:
        """What the planner would write."""
        name = self.cluster.nodes[0].name
        listed = [{"digest": artifact, "action": "Stage", "priority": 900_000_000} for artifact in artifacts]
        body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name}}
        spec = {"nodeUID": "any", "plan": "p", "artifacts": listed}
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps({**body, "spec": spec}))

    def pod(self, name: str, attributes: Mapping[str, str], script: str = "sleep 600") -> None:
        """As uid 1000, its root read-only."""
        security = {"runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": True}
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "securityContext": security,
            "volumeMounts": [{"name": "prestage-models", "mountPath": "/models", "readOnly": True}],
        }
        csi = {"driver": "prestage.dev", "readOnly": True, "volumeAttributes": dict(attributes)}
        spec = {
            "containers": [container],
            "volumes": [{"name": "prestage-models", "csi": csi}],
            "terminationGracePeriodSeconds": 1,
            "nodeName": self.cluster.nodes[0].name,
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

    def ready(self, name: str, timeout_s: int = 120) -> None:
        self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={timeout_s}s")

    def run(self, name: str, *argv: str) -> str:
        return self.cluster.kubectl("exec", name, "--", *argv)

    def delete(self, name: str) -> None:
        self.cluster.kubectl("delete", "pod", name, "--timeout=120s")

    def mounts(self) -> list[str]:
        """Of ours, on the node: two of a pod."""
        table = Path(f"/proc/{self.cluster.nodes[0].pid}/mountinfo").read_text()
        return [point.target for point in parse(table) if point.is_ours]


@pytest.fixture(scope="module")
def standing(one_node: Cluster) -> Iterator[World]:
    install(one_node.api)
    node = one_node.nodes[0]
    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    image = images.write(folder / "reader.tar", IMAGE, ["/bin/sh"])
    node.import_image(image)
    one_node.kubectl("apply", "-f", "-", stdin=json.dumps(DRIVER))
    within = ["nsenter", "-t", str(node.pid), "-m", "-p", "-u"]
    with Broker(folder) as broker:
        config = one_node.api.kubeconfig
        margin = ["--margin", "10M"]  # the machine's own disk may be as full as it is
        parts = NodeParts(folder, broker, config, node.name, Path("/var/lib/kubelet"), within, margin)
        with parts:
            registered = f"/apis/storage.k8s.io/v1/csinodes/{node.name}"
            one_node.api.processes.wait_for(
                lambda: "prestage.dev" in json.dumps(one_node.api.ask(registered)), what="the driver registered"
            )
            yield World(one_node, parts, broker)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(standing: World, hostile: Hostile) -> World:
    """It, with an origin of the test's own."""
    standing.broker.forget(hostile)
    return standing
