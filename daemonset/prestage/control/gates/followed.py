"""What World keeps of each object it follows: a mirror of thousands stays small. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prestage.control.podspec import part
from prestage.kube.mirror import without_managed_fields
from prestage.kube.ports import Object, Resource
from prestage.kube.resources import ARTIFACTS, DEPLOYMENTS, LEASES, NODE_CACHES, NODES, PODS, REPLICA_SETS

_LARGE = ("env", "envFrom", "args", "command", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle")


def trimmed_pod(seen: Object) -> Object:
    """Without what nobody here reads: a mirror of thousands stays small."""
    kept = dict(without_managed_fields(seen))
    spec = part(seen, "spec")
    rooms = {room: _without(spec.get(room), _LARGE) for room in ("containers", "initContainers") if room in spec}
    return {**kept, "spec": {**spec, **rooms}}


def trimmed_artifact(seen: Object) -> Object:
    """Without the manifest (one byte stands for it) and the binding, which are most of it."""
    kept = dict(without_managed_fields(seen))
    status = {key: value for key, value in part(seen, "status").items() if key != "binding"}
    return {**kept, "spec": {**part(seen, "spec"), "manifest": "AA=="}, "status": status}


def trimmed_workload(seen: Object) -> Object:
    """Owners, and how far a rollout is: no pod template."""
    spec = {key: value for key, value in part(seen, "spec").items() if key != "template"}
    return {**without_managed_fields(seen), "spec": spec}


def trimmed_node(seen: Object) -> Object:
    """Without the list of images."""
    status = {key: value for key, value in part(seen, "status").items() if key != "images"}
    return {**without_managed_fields(seen), "status": status}


FOLLOWED: Final[Mapping[Resource, Callable[[Object], Object]]] = {
    PODS: trimmed_pod,
    NODES: trimmed_node,
    NODE_CACHES: without_managed_fields,
    ARTIFACTS: trimmed_artifact,
    REPLICA_SETS: trimmed_workload,
    DEPLOYMENTS: trimmed_workload,
    LEASES: without_managed_fields,
}


def _without(containers: object, keys: Sequence[str]) -> object:
    if not isinstance(containers, list):
        return containers
    return [
        {key: value for key, value in one.items() if key not in keys} if isinstance(one, Mapping) else one for one in containers
    ]
