"""What the control plane keeps of each object in memory, and which part of it may change a plan. Pure.

A cluster has thousands of pods, whose containers and managed fields nobody here reads, and Artifacts that carry manifests of a
MiB. `trimmed_*` leaves what somebody reads; `matter_*` is what has to differ before anything is decided anew: heartbeats
never are.
"""

from __future__ import annotations

from collections.abc import Mapping

from prestage.api.annotations import DRIVER, is_ours
from prestage.kube.mirror import without_managed_fields
from prestage.kube.ports import Object, metadata_of

_METADATA = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "labels")
_POD_SPEC = (
    "nodeName",
    "nodeSelector",
    "affinity",
    "tolerations",
    "overhead",
    "resources",
    "schedulingGates",
    "serviceAccountName",
    "priority",
    "priorityClassName",
    "schedulerName",
)


def trimmed_pod(seen: Object) -> Object:
    """Where it may run, what it asks for, what is ours, how it stands."""
    spec, status = _mapping(seen.get("spec")), _mapping(seen.get("status"))
    kept = {name: status[name] for name in ("phase", "conditions", "reason") if name in status}
    return {**_head(seen), "spec": _pod_spec(spec), "status": kept}


def matter_of_pod(seen: Object) -> object:
    """All but its conditions."""
    return _metadata_matter(seen), seen.get("spec"), _mapping(seen.get("status")).get("phase")


def trimmed_node(seen: Object) -> Object:
    """Labels, taints and what it has; not its images, addresses and heartbeats."""
    status = _mapping(seen.get("status"))
    spec = {name: value for name, value in _mapping(seen.get("spec")).items() if name in ("taints", "unschedulable")}
    return {**_head(seen), "spec": spec, "status": {"allocatable": status.get("allocatable") or {}}}


def trimmed_workload(seen: Object) -> Object:
    """A Deployment, ReplicaSet, StatefulSet: how many, and the template while it is more than none."""
    spec, status = _mapping(seen.get("spec")), _mapping(seen.get("status"))
    kept = {name: spec[name] for name in ("replicas", "progressDeadlineSeconds", "paused") if name in spec}
    if spec.get("replicas", 1):
        template = _mapping(spec.get("template"))
        kept["template"] = {**_head(template), "spec": _pod_spec(_mapping(template.get("spec")))}
    names = ("replicas", "readyReplicas", "updatedReplicas", "currentRevision", "updateRevision", "conditions")
    return {**_head(seen), "spec": kept, "status": {name: status[name] for name in names if name in status}}


def matter_of_workload(seen: Object) -> object:
    """Its template and how many, its revisions."""
    status = _mapping(seen.get("status"))
    return _metadata_matter(seen), seen.get("spec"), status.get("currentRevision"), status.get("updateRevision")


def trimmed_artifact(seen: Object) -> Object:
    """Without manifest (one byte stands for it) and binding, which are most of it."""
    spec = {**_mapping(seen.get("spec")), "manifest": "AA=="}
    status = {name: value for name, value in _mapping(seen.get("status")).items() if name != "binding"}
    return {**without_managed_fields(seen), "spec": spec, "status": status}


def trimmed_node_cache(seen: Object) -> Object:
    """Without the heartbeat."""
    status = {name: value for name, value in _mapping(seen.get("status")).items() if name != "heartbeatAt"}
    kept = without_managed_fields(seen)
    return {**kept, "status": status} if status else {name: value for name, value in kept.items() if name != "status"}


def matter_of_node_cache(seen: Object) -> object:
    """What the agent says; what we wrote is no news."""
    status = {
        name: value for name, value in _mapping(seen.get("status")).items() if name not in ("observedPlan", "used", "reserved")
    }
    return metadata_of(seen).get("uid"), status


def matter_of_named(seen: Object) -> object:
    """Labels, spec and status of anything else."""
    return _metadata_matter(seen), seen.get("spec"), seen.get("status")


def matter_of_spec(seen: Object) -> object:
    """Labels and spec, of what we write the status of."""
    return _metadata_matter(seen), seen.get("spec")


def _metadata_matter(seen: Object) -> object:
    return {name: value for name, value in metadata_of(seen).items() if name not in ("resourceVersion", "managedFields")}


def _head(seen: Object) -> dict[str, object]:
    said = metadata_of(seen)
    kept = {name: said[name] for name in (*_METADATA, "ownerReferences") if name in said}
    ours = {str(key): value for key, value in _mapping(said.get("annotations")).items() if is_ours(str(key))}
    if ours:
        kept["annotations"] = ours
    return {**{name: seen[name] for name in ("apiVersion", "kind") if name in seen}, "metadata": kept}


def _pod_spec(spec: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {name: spec[name] for name in _POD_SPEC if name in spec}
    for field in ("containers", "initContainers"):
        if field in spec:
            kept[field] = [_container(one) for one in _list(spec[field])]
    volumes = [one for one in _list(spec.get("volumes")) if _mapping(one.get("csi")).get("driver") == DRIVER]
    return {**kept, **({"volumes": volumes} if volumes else {})}


def _container(given: Mapping[str, object]) -> dict[str, object]:
    return {name: given[name] for name in ("name", "resources", "restartPolicy") if name in given}


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}


def _list(given: object) -> list[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
