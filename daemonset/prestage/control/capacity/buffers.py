"""CapacityBuffers and PodTemplates as they are written, and which of those that are there are ours. Pure.

    Deployment, StatefulSet     scalableRef: the autoscaler takes the pods' shape from it
    nodes.selector with count   podTemplateRef: a pod that asks for nothing, one on each of the nodes that match

Each is named after its StagingSchedule and owned by it, so that it goes with it. One that somebody else made is never touched.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.values import LabelSelector, SelectorOperator
from prestage.control.capacity.wishes import Wish
from prestage.kube.events import Subject
from prestage.kube.ports import Object, Resource, Selection, metadata_of, name_of, namespace_of, uid_of
from prestage.kube.resources import STAGING_SCHEDULES

VERSIONS: Final = tuple(
    Resource(f"autoscaling.x-k8s.io/{version}", "capacitybuffers", "CapacityBuffer") for version in ("v1beta1", "v1alpha1")
)
"""Newest first: cluster autoscaler 1.35 and later, 1.34. What we write is the same in both."""
POD_TEMPLATES: Final = Resource("v1", "podtemplates", "PodTemplate")
LABEL: Final = "app.kubernetes.io/managed-by"
OURS: Final = "prestage"
OURS_ONLY: Final = Selection(labels=f"{LABEL}={OURS}")
_SHAPE: Final = "prestage.dev/capacity"
_NAME_MAX: Final = 200
_IMAGE: Final = "none"
"""Nobody runs it."""
_TOLERATED: Final = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "prestage.dev/starting")
"""Taints of nodes with accelerators; and ours, of those that start."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A buffer of ours. `owner`: UID of its StagingSchedule."""

    owner: str
    namespace: str
    name: str
    uid: str
    since: float
    spec: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Deeds:
    """What is to be done. One of another shape is deleted now, and made at the next look."""

    make: tuple[Wish, ...] = ()
    resize: tuple[tuple[Standing, Wish], ...] = ()
    delete: tuple[Standing, ...] = ()


def standing(seen: Object) -> Standing | None:
    """None: it is not ours, whatever its labels say."""
    metadata = metadata_of(seen)
    labels, owners = metadata.get("labels"), metadata.get("ownerReferences")
    if not isinstance(labels, Mapping) or labels.get(LABEL) != OURS or not isinstance(owners, list):
        return None
    for owner in owners:
        if isinstance(owner, Mapping) and owner.get("controller") is True and owner.get("kind") == STAGING_SCHEDULES.kind:
            if str(owner.get("apiVersion", "")).partition("/")[0] != STAGING_SCHEDULES.group_version.partition("/")[0]:
                continue
            spec = seen.get("spec")
            return Standing(
                str(owner.get("uid", "")),
                namespace_of(seen) or "",
                name_of(seen),
                uid_of(seen),
                made_at(seen),
                spec if isinstance(spec, Mapping) else {},
            )
    return None


def deeds(wanted: Mapping[str, Wish], there: Iterable[Standing]) -> Deeds:
    """`wanted`: by the UID of the schedule."""
    resize, delete, kept = list[tuple[Standing, Wish]](), list[Standing](), set[str]()
    for one in sorted(there, key=lambda found: (found.namespace, found.name, found.uid)):
        wish = wanted.get(one.owner)
        if wish is None or one.owner in kept or not _is_like(one.spec, spec_of(wish)):
            delete.append(one)
            continue
        kept.add(one.owner)
        if one.spec.get("replicas") != wish.count:
            resize.append((one, wish))
    leaving = {one.owner for one in delete}
    make = tuple(wish for uid, wish in sorted(wanted.items()) if uid not in kept and uid not in leaving)
    return Deeds(make, tuple(resize), tuple(delete))


def body_of(wish: Wish) -> Object:
    """A buffer, to be created."""
    return {"metadata": _metadata(wish.subject), "spec": spec_of(wish)}


def spec_of(wish: Wish) -> dict[str, object]:
    """Its shape, and for how many."""
    target = wish.shape.target
    if target is not None:
        group = target.api_version.rpartition("/")[0]
        ref = {"apiGroup": group, "kind": target.kind, "name": target.name}
        return {"scalableRef": ref, "replicas": wish.count}
    return {"podTemplateRef": {"name": template_name(wish.subject.uid)}, "replicas": wish.count}


def resize_of(wish: Wish, uid: str) -> Object:
    """A merge patch, for that very object only."""
    return {"metadata": {"uid": uid}, "spec": {"replicas": wish.count}}


def template_of(wish: Wish) -> Object | None:
    """The PodTemplate that a buffer of this shape names. None: it names none."""
    shape = wish.shape
    if shape.selector is None or shape.target is not None:
        return None
    name = template_name(wish.subject.uid)
    alone = {"labelSelector": {"matchLabels": {_SHAPE: name}}, "topologyKey": "kubernetes.io/hostname"}
    affinity: dict[str, object] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [alone]}}
    if terms := _expressions(shape.selector):
        chosen = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": chosen}
    tolerations = [{"key": key, "operator": "Exists"} for key in _TOLERATED]
    pod = {"containers": [{"name": "room", "image": _IMAGE}], "affinity": affinity, "tolerations": tolerations}
    template = {"metadata": {"labels": {_SHAPE: name}}, "spec": pod}
    return {"metadata": {**_metadata(wish.subject), "name": template_name(wish.subject.uid)}, "template": template}


def template_name(owner: str) -> str:
    """Nobody else has that name: the UID of the schedule is in it."""
    return f"prestage-{owner}"


def made_at(seen: Object) -> float:
    """By its creationTimestamp; 0 where that is none."""
    try:
        return datetime.datetime.fromisoformat(str(metadata_of(seen).get("creationTimestamp"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def buffer_name(subject: Subject) -> str:
    """Of its StagingSchedule. A long one is cut: the autoscaler makes names of it."""
    name = f"prestage-{subject.name}"
    return name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _metadata(subject: Subject) -> dict[str, object]:
    owner = {
        "apiVersion": STAGING_SCHEDULES.group_version,
        "kind": STAGING_SCHEDULES.kind,
        "name": subject.name,
        "uid": subject.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": buffer_name(subject),
        "namespace": subject.namespace,
        "labels": {LABEL: OURS},
        "ownerReferences": [owner],
    }


def _is_like(spec: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """But for the number."""
    return all(spec.get(name) == other.get(name) for name in ("scalableRef", "podTemplateRef"))


def _expressions(selector: LabelSelector) -> list[dict[str, object]]:
    made: list[dict[str, object]] = [
        {"key": key, "operator": str(SelectorOperator.IN), "values": [value]}
        for key, value in sorted((selector.match_labels or {}).items())
    ]
    for one in selector.match_expressions or ():
        made.append({"key": one.key, "operator": str(one.operator), **({"values": list(one.values)} if one.values else {})})
    return made
