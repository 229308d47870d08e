"""Objects as an API server has them, for tests of demand and planning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from prestage.control.demand.records import Line
from prestage.control.demand.world import KEPT
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource
from prestage.kube.resources import (
    ARTIFACTS,
    CACHE_POLICIES,
    CRON_JOBS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    SCALED_OBJECTS,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STATEFUL_SETS,
    STORE_POOLS,
)

OURS = "prestage.dev/v1alpha1"
REF = "hf://org/model@main"
RESOURCES = {
    "Pod": PODS,
    "Node": NODES,
    "Namespace": NAMESPACES,
    "Deployment": DEPLOYMENTS,
    "ReplicaSet": REPLICA_SETS,
    "StatefulSet": STATEFUL_SETS,
    "Artifact": ARTIFACTS,
    "StagedModel": STAGED_MODELS,
    "NodeCache": NODE_CACHES,
    "StorePool": STORE_POOLS,
    "CachePolicy": CACHE_POLICIES,
    "StagingSchedule": STAGING_SCHEDULES,
    "CronJob": CRON_JOBS,
    "HorizontalPodAutoscaler": HORIZONTAL_POD_AUTOSCALERS,
    "ScaledObject": SCALED_OBJECTS,
    "PriorityClass": PRIORITY_CLASSES,
}


def digest(name: str) -> str:
    """An artifact's name for a word."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def head(name: str, namespace: str | None = "team", **more: object) -> dict[str, object]:
    """metadata."""
    place = {"namespace": namespace} if namespace is not None else {}
    return {"name": name, "uid": f"{name}-uid", "resourceVersion": "1", **place, **more}


def namespace(name: str = "team", *, enabled: bool = True) -> Object:
    labels = {"prestage.dev/enabled": "true"} if enabled else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": head(name, None, labels={**labels, "name": name})}


def node(name: str = "n1", *, gpus: int = 4, taints: Iterable[object] = (), **labels: str) -> Object:
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    made = {"apiVersion": "v1", "kind": "Node", "metadata": head(name, None, labels=labels)}
    return {**made, "spec": {"taints": list(taints)}, "status": {"allocatable": room}}


def template(*, gpus: int = 1, ref: str = REF, models: Mapping[str, str] | None = None, **spec: object) -> dict[str, object]:
    """Of a pod: annotations and spec."""
    annotations = {f"model.prestage.dev/{alias}": text for alias, text in (models or {"llama": ref}).items()}
    resources = {"requests": {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": str(gpus)}}
    return {"annotations": annotations, "spec": {"containers": [{"name": "c", "resources": resources}], **spec}}


def controlled(kind: str, name: str) -> dict[str, object]:
    version = "batch/v1" if kind == "Job" else "v1" if kind == "Node" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "name": name, "uid": f"{name}-uid", "controller": True}


def pod(
    name: str = "p1",
    *,
    owner: tuple[str, str] | None = None,
    revision: str = "abc",
    on: str | None = None,
    phase: str = "Pending",
    gates: Iterable[str] = (),
    made: Mapping[str, object] | None = None,
    **metadata: object,
) -> Object:
    """By itself, or of an owner (kind, name)."""
    said = made or template()
    label = "pod-template-hash" if owner and owner[0] == "ReplicaSet" else "controller-revision-hash"
    owned = {"ownerReferences": [controlled(*owner)], "labels": {label: revision}} if owner else {}
    spec = dict(said["spec"]) if isinstance(said["spec"], Mapping) else {}
    if on is not None:
        spec["nodeName"] = on
    if gates:
        spec["schedulingGates"] = [{"name": gate} for gate in gates]
    metadata = {**head(name), **owned, "annotations": said["annotations"], **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": phase}}


def replica_set(
    name: str = "web-abc", of: str | None = "web", *, replicas: int = 1, revision: str = "abc", made: object = None
) -> Object:
    said = made if isinstance(made, Mapping) else template()
    inner = {"metadata": {"annotations": said["annotations"]}, "spec": said["spec"]}
    metadata = head(name, labels={"pod-template-hash": revision})
    metadata |= {"ownerReferences": [controlled("Deployment", of)]} if of else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": metadata,
        "spec": {"replicas": replicas, "template": inner},
    }


def deployment(name: str = "web", *, size: int = 1, made: object = None, said: Mapping[str, str] | None = None) -> Object:
    """`said`: its own annotations, ready-schedule and so on."""
    pods = made if isinstance(made, Mapping) else template()
    inner = {"metadata": {"annotations": pods["annotations"]}, "spec": pods["spec"]}
    metadata = head(name, annotations={f"prestage.dev/{key}": text for key, text in (said or {}).items()})
    spec = {"replicas": size, "template": inner}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def cron_job(
    name: str = "nightly", schedule: str = "0 2 * * *", *, made: object = None, parallelism: int = 1, **more: object
) -> Object:
    said = made if isinstance(made, Mapping) else template()
    inner = {"metadata": {"annotations": said["annotations"]}, "spec": said["spec"]}
    status = {key: more.pop(key) for key in ("lastScheduleTime",) if key in more}
    spec = {"schedule": schedule, "jobTemplate": {"spec": {"parallelism": parallelism, "template": inner}}, **more}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": head(name), "spec": spec, "status": status}


def schedule(name: str = "day", *windows: object, models: Iterable[str] = ("llama",), **spec: object) -> Object:
    """A StagingSchedule; every node where nothing else is said."""
    artifacts = [{"name": one, "type": "Model", "modelRef": {"name": one}} for one in models]
    where: dict[str, object] = {} if "targetRef" in spec or "nodes" in spec else {"nodes": {"selector": {}}}
    made = {"artifacts": artifacts, "windows": list(windows) or [{"name": "always"}], **where, **spec}
    return {"apiVersion": OURS, "kind": "StagingSchedule", "metadata": head(name, generation=1), "spec": made}


def artifact(name: str, *lines: Line, size: int = 1000, namespace: str = "team") -> Object:
    uses = [line._asdict() for line in lines]
    spec = {"digest": digest(name), "files": 1, "size": size, "manifest": "AA=="}
    metadata = head(digest(name).replace(":", "-"), namespace, annotations={"prestage.dev/revision": "0e9e39f"})
    return {"apiVersion": OURS, "kind": "Artifact", "metadata": metadata, "spec": spec, "status": {"templates": uses}}


def staged_model(name: str = "llama", *, generation: int = 1) -> Object:
    spec = {"source": "hf://org/model", "revision": "main"}
    return {"apiVersion": OURS, "kind": "StagedModel", "metadata": head(name, generation=generation), "spec": spec}


def node_cache(name: str = "n1", *warm: str, uid: str | None = None, **status: object) -> Object:
    """As an agent reports: `warm` are words of `digest`."""
    held = [{"digest": digest(one), "state": "Warm"} for one in warm]
    said = {"budget": "1Mi", "originRateP10": "1000", "artifacts": held, **status}
    metadata = head(name, None)
    return {
        "apiVersion": OURS,
        "kind": "NodeCache",
        "metadata": metadata,
        "spec": {"nodeUID": uid or f"{name}-uid"},
        "status": said,
    }


def line(uid: str = "web-uid", revision: str = "abc", alias: str = "llama", ref: str = REF) -> Line:
    return Line(uid, revision, alias, ref)


class Mirrored:
    """Mirrors of what is given."""

    def __init__(self, *objects: Object) -> None:
        self._mirrors = {kept.resource: Mirror(kept.keep) for kept in KEPT}
        self.put(*objects)

    def __getitem__(self, resource: Resource) -> Mirror:
        return self._mirrors[resource]

    def put(self, *objects: Object) -> None:
        """All that is there from now on."""
        for resource, mirror in self._mirrors.items():
            mirror.replace([one for one in objects if RESOURCES[str(one["kind"])] == resource])
