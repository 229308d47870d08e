"""Real scheduler, two real nodes: pods land where their model is warm, and still start where they can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from pods import objects

from cluster.kinds import install
from cluster.pods import OURS, applied, created, leader
from cluster.whole import Cluster
from prestage.control.gates.preference import PLACE_LABEL, place

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node")]


def status(cluster: Cluster, kind: str, name: str, patch: object, *more: str) -> None:
    cluster.kubectl("patch", kind, name, *more, "--subresource=status", "--type=merge", "-p", json.dumps({"status": patch}))


def waiting(cluster: Cluster, name: str, cpu: str) -> dict[str, object]:
    """A gated pod. Its owner, which the artifact is recorded for, has no controller that would count its pods."""
    one = objects.container(resources={"requests": {"cpu": cpu}}, image="localhost/kubetest/pause:1", imagePullPolicy="Never")
    made = objects.pod(name=name, spec={"schedulingGates": [objects.GATE], "containers": [one]})
    del cast("dict[str, object]", made["metadata"])["ownerReferences"]
    uid = cluster.kubectl("get", "configmap", "owner", "-n", "team-a", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": True}
    return {**made, "metadata": {**cast("dict[str, object]", made["metadata"]), "ownerReferences": [owner]}}


def test_released_pods_land_on_the_warm_node_and_elsewhere_when_it_is_full(two_nodes: Cluster, tmp_path: Path) -> None:
    api = two_nodes.api
    assert tmp_path.exists()
    install(api)
    for name in (OURS, "team-a"):
        applied(api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    api.processes.wait_for(lambda: api.ask("/api/v1/namespaces/team-a/serviceaccounts/default"), what="the service account")
    applied(api, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "team-a"}})
    there = objects.artifact(uid=two_nodes.kubectl("get", "configmap", "owner", "-n", "team-a", "-o", "jsonpath={.metadata.uid}"))
    applied(api, {**there, "status": {}}, objects.lease(-3600))
    status(two_nodes, "artifact", objects.DIGEST.replace(":", "-"), there["status"], "-n", "team-a")
    for name, state in (("node1", "Staging"), ("node2", "Warm")):
        uid = two_nodes.kubectl("get", "node", name, "-o", "jsonpath={.metadata.uid}")
        cache = objects.node_cache(name, {objects.DIGEST: state})
        applied(api, {**cache, "spec": {"nodeUID": uid}, "status": {}})
        status(two_nodes, "nodecache", name, cache["status"])
    cpus = float(two_nodes.kubectl("get", "node", "node2", "-o", "jsonpath={.status.allocatable.cpu}"))
    half = f"{cpus * 0.45:.2f}"
    with leader(api):
        for name in ("node1", "node2"):
            uid = two_nodes.kubectl("get", "node", name, "-o", "jsonpath={.metadata.uid}")
            label = f"jsonpath={{.metadata.labels.{PLACE_LABEL.replace('.', chr(92) + '.')}}}"
            api.processes.wait_for(
                lambda name=name, uid=uid, label=label: (
                    two_nodes.kubectl("get", "node", name, "-o", label)  # type: ignore[misc]
                    == place({"metadata": {"uid": uid}})
                ),
                what="the node's label",
            )
        landed = [_landed(two_nodes, name, half) for name in ("a", "b")]
        assert landed == ["node2", "node2"], "both fit beside the warm files"
        created(api, "team-a", waiting(two_nodes, "c", half))
        status(two_nodes, "nodecache", "node1", {"artifacts": [{"digest": objects.DIGEST, "state": "Warm"}]})
        assert _bound(two_nodes, "c") == "node1", "the warm node was full: it waited for the other one, and starts there"
        two_nodes.kubectl("wait", "--for=condition=prestage.dev/Warm", "pod/c", "-n", "team-a", "--timeout=60s")


def _landed(cluster: Cluster, name: str, cpu: str) -> str:
    created(cluster.api, "team-a", waiting(cluster, name, cpu))
    return _bound(cluster, name)


def _bound(cluster: Cluster, name: str) -> str:
    where = "jsonpath={.spec.nodeName}"
    return cluster.api.processes.wait_for(
        lambda: cluster.kubectl("get", "pod", name, "-n", "team-a", "-o", where), what=f"{name} bound", timeout_s=60
    )
