"""Pod specs as JSON, read. Pure. Absent and null are the same; what the API server would refuse anyway reads as empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prestage.api.annotations import DRIVER, WARM_GATE
from prestage.kube.ports import Object, metadata_of

INJECTED = frozenset(
    {
        "aws-guardduty-agent",
        "cloud-sql-proxy",
        "cloudsql-proxy",
        "consul-dataplane",
        "daprd",
        "datadog-agent",
        "envoy",
        "envoy-sidecar",
        "fluent-bit",
        "gke-gcsfuse-sidecar",
        "istio-proxy",
        "kuma-sidecar",
        "linkerd-proxy",
        "otc-container",
        "vault-agent",
    }
)
"""Names under which meshes, proxies and collectors put their containers into pods, often before the pod's own."""


def part(seen: object, *path: str) -> Mapping[str, object]:
    """The object below `path`; empty where there is none."""
    for key in path:
        seen = seen.get(key) if type(seen) is dict or isinstance(seen, Mapping) else None
    return seen if type(seen) is dict or isinstance(seen, Mapping) else {}


def entries(seen: object, key: str) -> list[Object]:
    """The objects of the list at `key`."""
    found = seen.get(key) if type(seen) is dict or isinstance(seen, Mapping) else None
    return [one for one in found if type(one) is dict or isinstance(one, Mapping)] if isinstance(found, list) else []


def annotations_of(seen: Object) -> dict[str, str]:
    """metadata.annotations."""
    return {str(key): str(value) for key, value in part(metadata_of(seen), "annotations").items()}


def containers_of(pod: Object) -> Iterator[tuple[str, int, Object]]:
    """Each with its list ("containers" or "initContainers") and index, in the order of their lists."""
    spec = part(pod, "spec")
    for room in ("containers", "initContainers"):
        for number, one in enumerate(entries(spec, room)):
            yield room, number, one


def claims_accelerator(container: Object) -> bool:
    """By an extended resource (a name with a domain that is not Kubernetes' own) or a DRA claim."""
    resources = part(container, "resources")
    if entries(resources, "claims"):
        return True
    names = [*part(resources, "limits"), *part(resources, "requests")]
    return any("/" in name and "kubernetes.io/" not in name for name in names)


def default_containers(pod: Object) -> tuple[str, ...]:
    """Those that claim an accelerator, else the first that nobody injected."""
    own = entries(part(pod, "spec"), "containers")
    names = [str(one.get("name", "")) for one in own]
    claiming = tuple(str(one.get("name", "")) for one in own if claims_accelerator(one))
    return claiming or tuple([*(name for name in names if name not in INJECTED), *names][:1])


def volumes_of(pod: Object) -> list[Object]:
    """spec.volumes."""
    return entries(part(pod, "spec"), "volumes")


def is_ours(volume: Object) -> bool:
    """Served by our CSI driver."""
    return part(volume, "csi").get("driver") == DRIVER


def attributes_of(volume: Object) -> dict[str, str]:
    """Of a CSI volume."""
    return {str(key): str(value) for key, value in part(volume, "csi", "volumeAttributes").items()}


def gates_of(pod: Object) -> list[str]:
    """Names of its scheduling gates."""
    return [str(one.get("name", "")) for one in entries(part(pod, "spec"), "schedulingGates")]


def is_gated(pod: Object) -> bool:
    """By us."""
    return WARM_GATE in gates_of(pod)


def has_other_gates(pod: Object) -> bool:
    """Beside ours."""
    return any(gate != WARM_GATE for gate in gates_of(pod))


def node_of(pod: Object) -> str:
    """Where it is bound to; empty while it is nowhere."""
    return str(part(pod, "spec").get("nodeName") or "")


def is_over(pod: Object) -> bool:
    """It ran to its end, or is being deleted."""
    return part(pod, "status").get("phase") in ("Succeeded", "Failed") or bool(metadata_of(pod).get("deletionTimestamp"))


def is_mirror(pod: Object) -> bool:
    """A static pod's shadow: only its kubelet may change it."""
    return "kubernetes.io/config.mirror" in annotations_of(pod)
