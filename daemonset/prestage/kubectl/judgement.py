"""Facts of a cluster in, findings out: every threshold stands here, with its reason. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prestage.api.kinds import KINDS
from prestage.api.nodes import ImagesStatus
from prestage.api.policies import STARTUP_TAINT
from prestage.cacher.doctor.findings import Finding, error, note, ok, warning
from prestage.kubectl.cluster import ClusterFacts, NodeFacts

KUBERNETES_MIN: Final = (1, 32)
"""Pod-bound tokens carry the node's name from there on: without it a node could ask for another node's models."""
TOKEN_IN_SECRETS: Final = (1, 35)
CONTAINERD_MIN: Final = (1, 6)
KUBELET_DIR: Final = "/var/lib/kubelet"
ARCHITECTURES: Final = ("amd64", "arm64")
TOLERATED: Final = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", STARTUP_TAINT)
"""By the chart's values; the DaemonSet controller adds those of nodes that are not ready, under pressure or cordoned."""
_USUAL: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "node-role.kubernetes.io/")
_ENFORCING: Final = re.compile(r"red hat|rhel|centos|rocky|alma|fedora|oracle linux|bottlerocket|flatcar selinux", re.IGNORECASE)
_NAMED: Final = 3
_FREE_MIN_PERCENT: Final = 20.0
_CRDS_FIRST: Final = "helm install prestage-crds first"


def judge(facts: ClusterFacts) -> list[Finding]:
    """All findings, in the order in which a reader wants them."""
    return [*_versions(facts), *_nodes(facts.nodes), *_kubelet(facts), *_installed(facts), *_images(facts.images or ())]


def _versions(facts: ClusterFacts) -> Iterator[Finding]:
    version = _number(facts.version)
    if version < KUBERNETES_MIN:
        yield error("kubernetes", f"{facts.version} is older than 1.32", "upgrade: tokens do not carry the node's name before")
    elif version < TOKEN_IN_SECRETS:
        yield note(
            "kubernetes", f"{facts.version}: a pod's token travels in the volume's attributes", "1.35 and newer hide it better"
        )
    else:
        yield ok("kubernetes", facts.version)
    if facts.mutating_policies:
        yield ok("policies", "MutatingAdmissionPolicy is served: volumes and mounts need no webhook")
    else:
        yield note("policies", "no MutatingAdmissionPolicy: the webhook adds volumes and mounts too", "1.36 and newer have it")
    if facts.node_claim is None:
        yield note("node-claim", "not looked at: no running pod, or no right to ask for its token", "run it as an administrator")
    elif facts.node_claim:
        yield ok("node-claim", "pod-bound tokens carry the node's name")
    else:
        do = "turn ServiceAccountTokenPodNodeInfo on: the broker answers no node that cannot say which one it is"
        yield error("node-claim", "pod-bound tokens do not carry the node's name", do, "denied")


def _nodes(nodes: Sequence[NodeFacts] | None) -> Iterator[Finding]:
    if nodes is None:
        yield note("nodes", "not looked at: no right to list nodes", "run it as an administrator")
        return
    linux = [node for node in nodes if node.system != "windows"]
    if not linux:
        yield note("nodes", "no Linux node yet", "fine where an autoscaler makes them")
    if others := _names(nodes, lambda node: node.system == "windows"):
        yield note("windows", others, "pods there get no models; the chart leaves them out")
    if others := _names(linux, lambda node: node.architecture not in ARCHITECTURES):
        yield error("arch", others, f"the image is built for {' and '.join(ARCHITECTURES)}: keep these out by nodeSelector")
    old = [node for node in linux if node.runtime.startswith("containerd://") and _number(node.runtime) < CONTAINERD_MIN]
    if others := _names(old, lambda _: True):
        yield warning("containerd", f"{others}: older than 1.6", "upgrade: nobody has tried it with older ones")
    elif found := sorted({node.runtime for node in linux}):
        yield ok("containerd", ", ".join(found))
    if others := _names(linux, lambda node: not node.runtime.startswith("containerd://")):
        yield note("runtime", f"{others}: not containerd", "models work; images cannot be staged there")
    if others := _names(linux, lambda node: _number(node.kubelet) < KUBERNETES_MIN):
        yield error("kubelet", f"{others}: older than 1.32", "upgrade these nodes, or keep them out by nodeSelector")
    if others := _names(linux, lambda node: bool(_ENFORCING.search(node.image))):
        yield note("selinux", f"{others}: of a kind that often enforces SELinux", "where it does: --set seLinuxType=spc_t")
    yield from _tainted(linux)
    if others := _names(linux, lambda node: any(key == STARTUP_TAINT for key, _ in node.taints)):
        do = "it goes within minutes; where it stays, our pod does not run on that node: look at the DaemonSet's pods"
        yield note("starting", f"{others}: no pods yet, by the taint {STARTUP_TAINT}", do)
    yield from _thresholds(linux)


def _tainted(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    keys = {
        key
        for node in nodes
        if node.accelerators
        for key, effect in node.taints
        if effect != "PreferNoSchedule" and key not in TOLERATED and not key.startswith(_USUAL)
    }
    if keys:
        named = ", ".join(sorted(keys))
        yield warning(
            "taints",
            f"nodes with accelerators have taints that the chart does not tolerate: {named}",
            "add them: node.tolerations",
        )


def _describe(part: str) -> str:
    """What shows why its pods do not run: their containers' last words, and their Events."""
    component = "node" if part.startswith("prestage-node") else part.removeprefix("prestage-")
    return f"kubectl -n prestage describe pods -l app.kubernetes.io/component={component}"


def _thresholds(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    asked = [node for node in nodes if node.eviction is not None]
    if not asked:
        return
    worst = max((_percent((node.eviction or {}).get("nodefs.available", "0%")), node.name) for node in asked)
    text = f"kubelets evict pods when the root disk has less than {worst[0]:g} % free ({worst[1]})"
    if worst[0] > _FREE_MIN_PERCENT:
        yield warning("thresholds", text, "a store on the root disk would have little room: use a disk of its own")
    else:
        yield ok("thresholds", text + "; a store on that disk stays clear of it by itself")


def _kubelet(facts: ClusterFacts) -> Iterator[Finding]:
    elsewhere = [path for path in facts.kubelet_dirs or () if path != KUBELET_DIR]
    if elsewhere:
        yield warning("kubelet-dir", f"other CSI drivers use {', '.join(elsewhere)}", f"--set kubeletDir={elsewhere[0]}")
    elif facts.kubelet_dirs:
        yield ok("kubelet-dir", f"{KUBELET_DIR}, as other CSI drivers have it")
    else:
        yield note(
            "kubelet-dir", f"no other CSI driver shows where it is; {KUBELET_DIR} is usual", "k0s, microk8s: --set kubeletDir=…"
        )


def _installed(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.definitions is not None:
        missing = sorted({f"{kind.plural}.prestage.dev" for kind in KINDS} - set(facts.definitions))
        if missing and facts.parts == ():
            yield note("kinds", f"not there yet: {', '.join(missing)}", _CRDS_FIRST)
        elif missing:
            yield error("kinds", f"not there: {', '.join(missing)}", _CRDS_FIRST)
        else:
            yield ok("kinds", f"all {len(KINDS)} are there")
    if facts.has_namespace and facts.pod_security in ("baseline", "restricted"):
        do = "kubectl label namespace NAME pod-security.kubernetes.io/enforce=privileged --overwrite"
        yield error("podsecurity", f"our namespace enforces {facts.pod_security}: pods that mount are refused", do, "denied")
    elif facts.has_namespace and not facts.pod_security:
        do = "where the cluster's default is stricter, label it pod-security.kubernetes.io/enforce=privileged"
        yield note("podsecurity", "our namespace has no label of its own", do)
    if not facts.parts:
        yield note("installed", "nothing of ours runs yet" if facts.parts is not None else "no right to see whether it is")
        return
    for part in facts.parts:
        text = f"{part.name}: {part.ready} of {part.wanted} ready"
        yield ok("running", text) if part.is_up else error("running", text, _describe(part.name), "unavailable")
    if facts.has_driver is False:
        yield error("driver", "the CSIDriver prestage.dev is not there", "helm upgrade --install prestage …")
    if others := _names(facts.nodes or (), lambda node: node.has_driver is False and node.system != "windows"):
        yield warning(
            "driver", f"not registered on {others}", "where pods with models should run: kubectl -n prestage get pods -o wide"
        )


def _images(found: Sequence[tuple[str, ImagesStatus]]) -> Iterator[Finding]:
    """What of containerd matters where images are staged."""
    if not found:
        return
    kinds = sorted({f"{said.runtime} ({said.snapshotter})" for _, said in found})
    yield ok("images", f"{len(found)} nodes stage images into containerd {', '.join(kinds)}")
    if others := [name for name, said in found if said.budget is None]:
        yield warning(
            "images", f"{others[0]} and others do not see containerd's disk: none are planned there", "images.containerdRoot"
        )
    if others := [name for name, said in found if said.discards_layers]:
        yield note("images", f"discard_unpacked_layers is set ({others[0]} …): layers' blobs go once a lease ends", "it works")
    if remote := sorted({name for _, said in found for name in said.remote_snapshotters or ()}):
        yield note(
            "images", f"remote snapshotters: {', '.join(remote)}", "they are left alone; what is staged does not reach them"
        )


def _names(nodes: Iterable[NodeFacts], chosen: Callable[[NodeFacts], bool]) -> str:
    names = [node.name for node in nodes if chosen(node)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _number(version: str) -> tuple[int, int]:
    """Major and minor of v1.36.3, containerd://1.7.24; what cannot be read is taken for new."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (999, 0)


def _percent(threshold: str) -> float:
    """Of a threshold in percent; one in bytes says nothing about the disk's share."""
    return float(threshold.removesuffix("%")) if threshold.endswith("%") else 0.0
