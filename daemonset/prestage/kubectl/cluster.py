"""What `kubectl prestage doctor` looks at: facts of a cluster, read as the one who asks. None: he may not look.

Nothing is written. A token of a running pod is asked for (and thrown away) to see what it carries.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from prestage.api.nodes import ImagesStatus, NodeCache
from prestage.cacher.errors import PrestageError
from prestage.kube.client import KubeApi
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import Object, Resource, Selection, metadata_of, name_of, namespace_of, uid_of
from prestage.kube.resources import DAEMON_SETS, DEFINITIONS, DEPLOYMENTS, NAMESPACES, NODE_CACHES, NODES, PODS, SERVICE_ACCOUNTS
from prestage.kubectl.asking import allowed, kinds
from prestage.kubectl.status import Part, parts

CSI_DRIVERS = Resource("storage.k8s.io/v1", "csidrivers", "CSIDriver", namespaced=False)
CSI_NODES = Resource("storage.k8s.io/v1", "csinodes", "CSINode", namespaced=False)
GROUP: Final = ".prestage.dev"
_POLICIES: Final = "mutatingadmissionpolicies"
_ACCELERATORS: Final = ("gpu", "tpu", "neuron", "npu", "gaudi")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node. `taints`: (key, effect). `eviction`: the kubelet's hard thresholds, None where they could not be read."""

    name: str
    system: str
    architecture: str
    image: str
    runtime: str
    kubelet: str
    accelerators: tuple[str, ...]
    taints: tuple[tuple[str, str], ...]
    eviction: Mapping[str, str] | None
    has_driver: bool | None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """See the fields; None: not allowed to look."""

    version: str
    mutating_policies: bool
    definitions: tuple[str, ...] | None
    nodes: tuple[NodeFacts, ...] | None
    kubelet_dirs: tuple[str, ...] | None
    """Where other CSI drivers look for the kubelet."""
    node_claim: bool | None
    pod_security: str | None
    """Of our namespace; "": no label."""
    has_namespace: bool | None
    has_driver: bool | None
    parts: tuple[Part, ...] | None
    images: tuple[tuple[str, ImagesStatus], ...] | None = None
    """Nodes that stage images, and what their containerd is."""


async def look(api: KubeApi, control_namespace: str) -> ClusterFacts:
    """All of it, in a few requests; one more for each of the first nodes."""
    version = str((await api.document("/version")).get("gitVersion", ""))
    definitions = await allowed(api, DEFINITIONS)
    daemons = await allowed(api, DAEMON_SETS)
    space = await allowed(api, NAMESPACES, Selection(fields=f"metadata.name={control_namespace}"))
    drivers = await allowed(api, CSI_DRIVERS, Selection(fields=f"metadata.name={GROUP[1:]}"))
    labels = _map(metadata_of(space[0]).get("labels")) if space else {}
    return ClusterFacts(
        version=version,
        mutating_policies=await _serves_policies(api),
        definitions=None if definitions is None else tuple(name for one in definitions if (name := name_of(one)).endswith(GROUP)),
        nodes=await _nodes(api),
        kubelet_dirs=None if daemons is None else tuple(sorted({found for one in daemons for found in _kubelet_dirs(one)})),
        node_claim=await _node_claim(api),
        pod_security=None if space is None else str(labels.get("pod-security.kubernetes.io/enforce", "")),
        has_namespace=None if space is None else bool(space),
        has_driver=None if drivers is None else bool(drivers),
        parts=await _parts(api, control_namespace, daemons),
        images=await _images(api),
    )


async def _images(api: KubeApi) -> tuple[tuple[str, ImagesStatus], ...] | None:
    caches = await kinds(api, NODE_CACHES, NodeCache)
    if caches is None:
        return None
    return tuple((one.metadata.name, one.status.images) for one in caches if one.status and one.status.images)


async def _parts(api: KubeApi, namespace: str, daemons: Sequence[Object] | None) -> tuple[Part, ...] | None:
    ours = await allowed(api, DEPLOYMENTS, Selection(namespace=namespace, labels="app.kubernetes.io/part-of=prestage"))
    if ours is None or daemons is None:
        return None
    here = [one for one in daemons if namespace_of(one) == namespace and name_of(one).startswith("prestage-node")]
    return tuple(parts(ours, here))


async def _serves_policies(api: KubeApi) -> bool:
    try:
        served = await api.document("/apis/admissionregistration.k8s.io/v1")
    except PrestageError:
        return False
    return any(one.get("name") == _POLICIES for one in cast("list[Object]", served.get("resources") or []))


async def _nodes(api: KubeApi) -> tuple[NodeFacts, ...] | None:
    nodes = await allowed(api, NODES)
    if nodes is None:
        return None
    attached = await allowed(api, CSI_NODES)
    with_driver = None
    if attached is not None:
        named = {name_of(one): cast("list[Object]", _map(one.get("spec")).get("drivers") or []) for one in attached}
        with_driver = {name for name, drivers in named.items() if any(one.get("name") == GROUP[1:] for one in drivers)}
    asked = {name_of(one): await _eviction(api, name_of(one)) for one in nodes[:20]}
    return tuple(_node(one, asked.get(name_of(one)), with_driver) for one in nodes)


async def _eviction(api: KubeApi, node: str) -> Mapping[str, str] | None:
    try:
        said = await api.get(NODES, node, subresource="proxy/configz")
    except PrestageError:  # the node may be down, the caller may not ask kubelets
        return None
    return cast("Mapping[str, str]", _map(_map(said.get("kubeletconfig")).get("evictionHard")))


def _node(node: Object, eviction: Mapping[str, str] | None, with_driver: set[str] | None) -> NodeFacts:
    status, spec = _map(node.get("status")), _map(node.get("spec"))
    info = {key: str(value) for key, value in _map(status.get("nodeInfo")).items()}
    taints = cast("list[Object]", spec.get("taints") or [])
    capacity = _map(status.get("capacity"))
    return NodeFacts(
        name=name_of(node),
        system=info.get("operatingSystem", ""),
        architecture=info.get("architecture", ""),
        image=info.get("osImage", ""),
        runtime=info.get("containerRuntimeVersion", ""),
        kubelet=info.get("kubeletVersion", ""),
        accelerators=tuple(name for name in capacity if "/" in name and any(word in name for word in _ACCELERATORS)),
        taints=tuple((str(one.get("key")), str(one.get("effect"))) for one in taints),
        eviction=eviction,
        has_driver=None if with_driver is None else name_of(node) in with_driver,
    )


def _kubelet_dirs(daemon: Object) -> list[str]:
    if name_of(daemon).startswith("prestage-node"):
        return []
    pod = _map(_map(_map(daemon.get("spec")).get("template")).get("spec"))
    paths = [str(_map(one.get("hostPath")).get("path", "")) for one in cast("list[Object]", pod.get("volumes") or [])]
    return [folder for path in paths if (folder := path.rstrip("/").removesuffix("/plugins_registry")) != path.rstrip("/")]


async def _node_claim(api: KubeApi) -> bool | None:
    """Whether tokens that are bound to a pod carry the name of its node."""
    pods = await allowed(api, PODS, Selection(fields="status.phase=Running"))
    pod = next((one for one in pods or () if _map(one.get("spec")).get("nodeName")), None)
    if pod is None:
        return None
    bound = {"kind": "Pod", "apiVersion": "v1", "name": name_of(pod), "uid": uid_of(pod)}
    wanted = {"audiences": ["prestage-doctor"], "expirationSeconds": 600, "boundObjectRef": bound}
    account = str(_map(pod.get("spec")).get("serviceAccountName") or "default")
    try:
        made = await api.create(
            SERVICE_ACCOUNTS,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wanted},
            namespace=namespace_of(pod),
            name=account,
            subresource="token",
        )
    except (Forbidden, Missing):
        return None
    middle = str(_map(made.get("status")).get("token", "")).split(".")[1:2]
    claims = json.loads(base64.urlsafe_b64decode(middle[0] + "==")) if middle else {}
    return bool(_map(_map(claims).get("kubernetes.io")).get("node"))


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
