"""`kubectl prestage doctor`: facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prestage.api.kinds import KINDS
from prestage.api.nodes import ImagesStatus
from prestage.cacher.doctor.findings import Level, exit_code
from prestage.kubectl.cluster import ClusterFacts, NodeFacts
from prestage.kubectl.judgement import TOLERATED, judge
from prestage.kubectl.status import Part

NODE = NodeFacts(
    name="n1",
    system="linux",
    architecture="amd64",
    image="Debian GNU/Linux 12",
    runtime="containerd://1.7.24",
    kubelet="v1.36.3",
    accelerators=("nvidia.com/gpu",),
    taints=(("nvidia.com/gpu", "NoSchedule"),),
    eviction={"nodefs.available": "10%"},
    has_driver=True,
)
GOOD = ClusterFacts(
    version="v1.36.3",
    mutating_policies=True,
    definitions=tuple(f"{kind.plural}.prestage.dev" for kind in KINDS),
    nodes=(NODE,),
    kubelet_dirs=("/var/lib/kubelet",),
    node_claim=True,
    pod_security="privileged",
    has_namespace=True,
    has_driver=True,
    parts=(Part("prestage-broker", 2, 2), Part("prestage-node", 1, 1)),
)


def test_a_good_cluster_has_nothing_to_do() -> None:
    findings = judge(GOOD)
    assert {finding.level for finding in findings} == {Level.OK}
    assert exit_code(findings) == 0


def test_of_a_containerd_that_images_are_staged_into_it_is_said_what_matters() -> None:
    good = ImagesStatus(runtime="2.1.9", snapshotter="overlayfs", budget=1)
    odd = ImagesStatus(runtime="1.7.24", snapshotter="overlayfs", discards_layers=True, remote_snapshotters=["soci"])
    found = [one for one in judge(replace(GOOD, images=(("n1", good), ("n2", odd)))) if one.check == "images"]
    assert [one.level for one in found] == [Level.OK, Level.WARNING, Level.NOTE, Level.NOTE]
    assert "1.7.24 (overlayfs), 2.1.9 (overlayfs)" in found[0].found
    assert not [one for one in judge(replace(GOOD, images=())) if one.check == "images"]


def node(**changes: Any) -> ClusterFacts:
    return replace(GOOD, nodes=(replace(NODE, **changes),))


@pytest.mark.parametrize(
    ("facts", "check", "level"),
    [
        (replace(GOOD, version="v1.31.9"), "kubernetes", Level.ERROR),
        (replace(GOOD, version="v1.34.0-gke.1"), "kubernetes", Level.NOTE),
        (replace(GOOD, mutating_policies=False), "policies", Level.NOTE),
        (replace(GOOD, node_claim=False), "node-claim", Level.ERROR),
        (replace(GOOD, node_claim=None), "node-claim", Level.NOTE),
        (replace(GOOD, nodes=None), "nodes", Level.NOTE),
        (node(system="windows"), "windows", Level.NOTE),
        (node(architecture="s390x"), "arch", Level.ERROR),
        (node(runtime="containerd://1.5.9"), "containerd", Level.WARNING),
        (node(runtime="cri-o://1.33"), "runtime", Level.NOTE),
        (node(kubelet="v1.30.0"), "kubelet", Level.ERROR),
        (node(image="Red Hat Enterprise Linux CoreOS"), "selinux", Level.NOTE),
        (node(taints=(("team", "NoSchedule"),)), "taints", Level.WARNING),
        (node(taints=(("prestage.dev/starting", "NoSchedule"),)), "starting", Level.NOTE),
        (node(eviction={"nodefs.available": "30%"}), "thresholds", Level.WARNING),
        (replace(GOOD, kubelet_dirs=("/var/lib/k0s/kubelet",)), "kubelet-dir", Level.WARNING),
        (replace(GOOD, kubelet_dirs=()), "kubelet-dir", Level.NOTE),
        (replace(GOOD, definitions=()), "kinds", Level.ERROR),
        (replace(GOOD, definitions=(), parts=()), "kinds", Level.NOTE),
        (replace(GOOD, pod_security="restricted"), "podsecurity", Level.ERROR),
        (replace(GOOD, pod_security=""), "podsecurity", Level.NOTE),
        (replace(GOOD, parts=()), "installed", Level.NOTE),
        (replace(GOOD, parts=(Part("prestage-broker", 0, 2),)), "running", Level.ERROR),
        (replace(GOOD, has_driver=False), "driver", Level.ERROR),
        (node(has_driver=False), "driver", Level.WARNING),
    ],
)
def test_what_is_wrong_is_found_and_says_what_to_do(facts: ClusterFacts, check: str, level: Level) -> None:
    [finding] = [finding for finding in judge(facts) if finding.check == check and finding.level is not Level.OK]
    assert finding.level is level
    assert finding.do or check == "installed"
    assert len(finding.check) <= 11


@pytest.mark.parametrize(
    "taints",
    [
        (("team", "PreferNoSchedule"),),
        (("node.kubernetes.io/not-ready", "NoExecute"),),
        *(((key, "NoSchedule"),) for key in TOLERATED),
    ],
)
def test_taints_that_do_not_matter_are_not_mentioned(taints: tuple[tuple[str, str], ...]) -> None:
    assert "taints" not in {finding.check for finding in judge(node(taints=taints))}


def test_a_hundred_bad_nodes_are_three_names_and_a_count() -> None:
    many = tuple(replace(NODE, name=f"n{n}", kubelet="v1.30.0") for n in range(100))
    [finding] = [one for one in judge(replace(GOOD, nodes=many)) if one.check == "kubelet"]
    assert finding.found.startswith("n0, n1, n2 and 97 more")


def test_what_may_not_be_looked_at_is_no_error() -> None:
    blind = ClusterFacts("v1.36.3", True, None, None, None, None, None, None, None, None)
    assert exit_code(judge(blind)) == 0
