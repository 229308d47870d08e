"""What the control plane keeps of each object in memory, and which part of it may change a plan. Pure.

A cluster has thousands of pods, whose containers and managed fields nobody here reads, and Artifacts that carry manifests of a
MiB. `trimmed_*` leaves what somebody reads; `matter_*` is what has to differ before anything is decided anew: heartbeats
never are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prestage.api.annotations import DRIVER, WARM_GATE, is_ours
from prestage.control.demand.contents import PARTS, packed_parts
from prestage.kube.mirror import without_managed_fields
from prestage.kube.ports import Object, metadata_of

REVISION: Final = "deployment.kubernetes.io/revision"
"""Of a ReplicaSet: the highest is the newest."""
KEDA_PAUSED: Final = ("autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas")
_METADATA = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "labels")
_PROGRESS: Final = ("fetched", "step")
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
    "imagePullSecrets",
)


def trimmed_pod(seen: Object) -> Object:
    """Where it may run, what it asks for, what is ours, how it stands."""
    spec, status = _mapping(seen.get("spec")), _mapping(seen.get("status"))
    kept = {name: status[name] for name in ("phase", "conditions", "reason") if name in status}
    return {**_head(seen), "spec": _pod_spec(spec), "status": kept}


def matter_of_pod(seen: Object) -> object:
    """All but its conditions, our gate and what it would like best: we write all three."""
    spec, metadata = _mapping(seen.get("spec")), metadata_of(seen)
    head = {name: value for name, value in metadata.items() if name not in ("resourceVersion", "managedFields", "generation")}
    affinity = _mapping(spec.get("affinity"))
    required = _mapping(affinity.get("nodeAffinity")).get("requiredDuringSchedulingIgnoredDuringExecution")
    gates = [one.get("name") for one in _list(spec.get("schedulingGates")) if one.get("name") != WARM_GATE]
    rest = {name: value for name, value in spec.items() if name not in ("affinity", "schedulingGates")}
    return head, rest, required, gates, _mapping(seen.get("status")).get("phase")


def trimmed_node(seen: Object) -> Object:
    """Labels, taints and what it has; not its images, addresses and heartbeats."""
    status = _mapping(seen.get("status"))
    spec = {name: value for name, value in _mapping(seen.get("spec")).items() if name in ("taints", "unschedulable")}
    return {**_head(seen), "spec": spec, "status": {"allocatable": status.get("allocatable") or {}}}


def trimmed_workload(seen: Object) -> Object:
    """A Deployment, StatefulSet: how many, and the template."""
    spec = _mapping(seen.get("spec"))
    return _workload(seen, {"template": trimmed_template(_mapping(spec.get("template")))})


def trimmed_replica_set(seen: Object) -> Object:
    """How many, and the template: where it is to have none, only which models it names."""
    spec = _mapping(seen.get("spec"))
    template = trimmed_template(_mapping(spec.get("template")))
    if not spec.get("replicas", 1):
        inner = _mapping(template["spec"])
        template = {**template, "spec": {name: inner[name] for name in ("volumes",) if name in inner}}
    return _workload(seen, {"template": template})


def _workload(seen: Object, more: Mapping[str, object]) -> Object:
    spec, status = _mapping(seen.get("spec")), _mapping(seen.get("status"))
    kept = {name: spec[name] for name in ("replicas", "progressDeadlineSeconds", "paused") if name in spec}
    names = (
        *("replicas", "readyReplicas", "updatedReplicas", "currentRevision", "updateRevision", "conditions"),
        "observedGeneration",
    )
    return {**_head(seen), "spec": {**kept, **more}, "status": {name: status[name] for name in names if name in status}}


def trimmed_template(template: Mapping[str, object]) -> dict[str, object]:
    """Of pods: what demand reads."""
    return {**_head(template), "spec": _pod_spec(_mapping(template.get("spec")))}


def trimmed_cron_job(seen: Object) -> Object:
    """When it runs, what, and when it did last."""
    spec, status = _mapping(seen.get("spec")), _mapping(seen.get("status"))
    names = ("schedule", "timeZone", "suspend", "concurrencyPolicy", "startingDeadlineSeconds")
    job = _mapping(_mapping(spec.get("jobTemplate")).get("spec"))
    inner = {name: job[name] for name in ("parallelism", "completions") if name in job}
    inner["template"] = trimmed_template(_mapping(job.get("template")))
    kept = {name: spec[name] for name in names if name in spec}
    said: dict[str, object] = {"active": len(_list(status.get("active")))}
    said |= {name: status[name] for name in ("lastScheduleTime",) if name in status}
    return {**_head(seen), "spec": {**kept, "jobTemplate": {"spec": inner}}, "status": said}


def trimmed_autoscaler(seen: Object) -> Object:
    """Of HPA and KEDA: whom, the floor, the cron triggers."""
    spec, head = _mapping(seen.get("spec")), _head(seen)
    kept = {name: spec[name] for name in ("scaleTargetRef", "minReplicas", "minReplicaCount") if name in spec}
    crons = [one for one in _list(spec.get("triggers")) if one.get("type") == "cron"]
    if "triggers" in spec:
        kept["triggers"] = crons
    said = _mapping(metadata_of(seen).get("annotations"))
    paused = {key: said[key] for key in KEDA_PAUSED if key in said}
    metadata = _mapping(head["metadata"])
    return {**head, "metadata": {**metadata, **({"annotations": paused} if paused else {})}, "spec": kept}


def trimmed_priority_class(seen: Object) -> Object:
    """Its value."""
    return {**_head(seen), "value": seen.get("value", 0), "globalDefault": seen.get("globalDefault", False)}


def matter_of_priority_class(seen: Object) -> object:
    """The same."""
    return seen.get("value"), seen.get("globalDefault")


def matter_of_workload(seen: Object) -> object:
    """Its template and how many, its revisions, and whether they are those of this template."""
    status = _mapping(seen.get("status"))
    observed = status.get("observedGeneration")
    is_current = observed is None or observed == metadata_of(seen).get("generation")
    return (
        _metadata_matter(seen),
        seen.get("spec"),
        [status.get(name) for name in ("currentRevision", "updateRevision")],
        is_current,
    )


def trimmed_artifact(seen: Object) -> Object:
    """Without manifest and binding, which are most of it: one byte stands for the one, beside what it is made of."""
    spec = _mapping(seen.get("spec"))
    parts = packed_parts(spec.get("manifest"))
    spec = {**spec, "manifest": "AA=="}
    status = {name: value for name, value in _mapping(seen.get("status")).items() if name != "binding"}
    return {**without_managed_fields(seen), "spec": spec, "status": status, PARTS: parts}


def trimmed_node_cache(seen: Object) -> Object:
    """Without the heartbeat."""
    status = {name: value for name, value in _mapping(seen.get("status")).items() if name != "heartbeatAt"}
    if "images" in status:
        images = _mapping(status["images"]).items()
        status["images"] = {name: value for name, value in images if name != "heartbeatAt"}
    kept = without_managed_fields(seen)
    return {**kept, "status": status} if status else {name: value for name, value in kept.items() if name != "status"}


def matter_of_node_cache(seen: Object) -> object:
    """What the agent says, but for how far a stage is; what we wrote is no news."""
    said = _mapping(seen.get("status"))
    status = {name: value for name, value in said.items() if name not in ("observedPlan", "used", "reserved", "artifacts")}
    held = [{name: value for name, value in one.items() if name not in _PROGRESS} for one in _list(said.get("artifacts"))]
    return metadata_of(seen).get("uid"), status, held


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
    ours = {str(key): value for key, value in _mapping(said.get("annotations")).items() if is_ours(str(key)) or key == REVISION}
    if ours:
        kept["annotations"] = ours
    return {**{name: seen[name] for name in ("apiVersion", "kind") if name in seen}, "metadata": kept}


def _pod_spec(spec: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {name: spec[name] for name in _POD_SPEC if name in spec}
    for field in ("containers", "initContainers"):
        if field in spec:
            kept[field] = [_container(one) for one in _list(spec[field])]
    volumes = [one for one in _list(spec.get("volumes")) if _mapping(one.get("csi")).get("driver") == DRIVER or "image" in one]
    return {**kept, **({"volumes": volumes} if volumes else {})}


def _container(given: Mapping[str, object]) -> dict[str, object]:
    names = ("name", "resources", "restartPolicy", "image", "imagePullPolicy")
    return {name: given[name] for name in names if name in given}


def _mapping(given: object) -> Mapping[str, object]:
    return given if type(given) is dict or isinstance(given, Mapping) else {}


def _list(given: object) -> list[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
