"""From a pod to its template: all pods of one template get one revision. Pure.

    controller of the pod             uid                             hash
    ReplicaSet with a controller      of that one (the Deployment)    pod-template-hash
    ReplicaSet by itself, Job, …      of the controller               `-`
    StatefulSet, DaemonSet            of the controller               controller-revision-hash
    none, or the Node (static pods)   of the pod                      `-`

Holds at admission too, where a pod has owners and labels but no UID of its own yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prestage.api.brokerage import Template
from prestage.kube.ports import Object, metadata_of, namespace_of, uid_of

Owners = Callable[[str, str], Object | None]
"""A ReplicaSet by namespace and name, as it was seen last."""
NO_HASH: Final = "-"
_TEMPLATE_HASHES: Final = ("pod-template-hash", "rollouts-pod-template-hash")
_REVISION_HASH: Final = "controller-revision-hash"


def template_of(pod: Object, owners: Owners) -> Template | None:
    """None: it cannot be told (yet). Its ReplicaSet was not seen, or a pod by itself has no UID before it is stored."""
    controller = controller_of(pod)
    if controller is None or controller.get("kind") == "Node":
        return Template(uid=uid_of(pod), hash=NO_HASH) if uid_of(pod) else None
    uid = str(controller.get("uid", ""))
    if controller.get("kind") != "ReplicaSet":
        return Template(uid=uid, hash=_label(pod, _REVISION_HASH) or NO_HASH)
    found = owners(namespace_of(pod) or "", str(controller.get("name", "")))
    if found is None or uid_of(found) != uid:
        return None
    above = controller_of(found)
    said = next(filter(None, (_label(pod, name) for name in _TEMPLATE_HASHES)), None)
    if above is None or said is None:
        return Template(uid=uid, hash=NO_HASH)
    return Template(uid=str(above.get("uid", "")), hash=said)


def controller_of(seen: Object) -> Mapping[str, object] | None:
    """The owner reference of who made it and looks after it."""
    found = metadata_of(seen).get("ownerReferences")
    references = [one for one in found if type(one) is dict or isinstance(one, Mapping)] if isinstance(found, list) else []
    return next((one for one in references if one.get("controller") is True), None)


def _label(seen: Object, name: str) -> str | None:
    labels = metadata_of(seen).get("labels")
    value = labels.get(name) if isinstance(labels, Mapping) else None
    return value if isinstance(value, str) and value else None
