"""Pods and what is around them, as the API server sends them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from prestage.control.demand.image_lines import image_line
from prestage.control.gates.preference import PLACE_LABEL, place
from prestage.control.podspec import part
from prestage.kube.ports import Object

LLAMA = "hf://org/llama@main"
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
ENGINE = "registry.test/app:1"
"""The image of every container here."""
IMAGE = "sha256:" + "e" * 64
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
JOB = "5f8f0000-job"
GATE: Object = {"name": "prestage.dev/warm"}
KUEUE: Object = {"name": "kueue.x-k8s.io/admission"}


def container(name: str = "server", *, gpus: int = 0, **more: object) -> dict[str, object]:
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    return {"name": name, "image": ENGINE, **limits, **more}


def pod(
    annotations: Mapping[str, str] | None = None,
    *,
    name: str = "p",
    gpus: int = 0,
    spec: Mapping[str, object] | None = None,
    **meta: object,
) -> dict[str, object]:
    """Of a Job: its template is (JOB, "-")."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": JOB, "controller": True}
    given = {"model.prestage.dev/llama": LLAMA} if annotations is None else dict(annotations)
    metadata = {"name": name, "namespace": "team-a", "annotations": given, "ownerReferences": [owner], **meta}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container(gpus=gpus)], **(spec or {})},
    }


def node(name: str, *, gpus: int = 1, labelled: bool = True, taints: list[Object] | None = None) -> dict[str, object]:
    made: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {"pods": "110", "cpu": "8", "nvidia.com/gpu": str(gpus)}},
    }
    if labelled:
        made["metadata"] = {**part(made, "metadata"), "labels": {PLACE_LABEL: place(made)}}
    return made


def node_cache(
    name: str, states: Mapping[str, str], *, rate: int | None = 100_000_000, code: str | None = None
) -> dict[str, object]:
    held = [
        {"digest": digest, "state": state, **({"errorClass": "Denied", "errorCode": code} if state == "Failed" and code else {})}
        for digest, state in states.items()
    ]
    status: dict[str, object] = {"artifacts": held, **({"originRateP10": rate} if rate else {})}
    spec = {"nodeUID": f"uid-{name}", "artifacts": [{"digest": digest, "action": "Stage"} for digest in states]}
    return {
        "apiVersion": "prestage.dev/v1alpha1",
        "kind": "NodeCache",
        "metadata": {"name": name},
        "spec": spec,
        "status": status,
    }


def staging_images(
    cache: Mapping[str, object], state: str | None = None, *, told: bool = True, rate: int = 100_000_000, **more: object
) -> dict[str, object]:
    """`cache` of a node that stages images: IMAGE is in `state`, and, where it is told to, in its plan. `more`: of its entry, but
    for `room`, `snapshotter` and `remote`."""
    said: dict[str, object] = {"runtime": "2.3.4", "snapshotter": str(more.pop("snapshotter", "overlayfs")), "rateP10": rate}
    said |= {"budget": more.pop("room", "100G")} | ({"remoteSnapshotters": more.pop("remote")} if "remote" in more else {})
    entry = {"digest": IMAGE, "type": "Image"}
    spec, status = part(cache, "spec"), part(cache, "status")
    planned = [*_list(spec.get("artifacts")), *([{**entry, "action": "Stage"}] if told else [])]
    held = [*_list(status.get("artifacts")), *([{**entry, "state": state, **more}] if state is not None else [])]
    return {**cache, "spec": {**spec, "artifacts": planned}, "status": {**status, "artifacts": held, "images": said}}


def _list(given: object) -> list[object]:
    return given if isinstance(given, list) else []


def image_artifact(digest: str = IMAGE, *, image: str = ENGINE, architecture: str = "amd64", size: int = 500_000_000) -> Object:
    """Of the template of `pod`."""
    line = image_line(JOB, "-", f"oci://{image}", architecture)
    return artifact(digest, size=size, alias=line.alias, ref=line.ref)


def artifact(
    digest: str = DIGEST,
    *,
    size: int = 1_000_000_000,
    uid: str = JOB,
    revision: str = "-",
    alias: str = "llama",
    ref: str = LLAMA,
) -> dict[str, object]:
    use = {"uid": uid, "hash": revision, "alias": alias, "ref": ref}
    return {
        "apiVersion": "prestage.dev/v1alpha1",
        "kind": "Artifact",
        "metadata": {"name": digest.replace(":", "-"), "namespace": "team-a"},
        "spec": {"digest": digest, "files": 3, "size": size, "manifest": "AAAA", "ref": LLAMA},
        "status": {"templates": [use]},
    }


def lease(age_s: float = 1.0, *, now: datetime.datetime = NOW) -> dict[str, object]:
    renewed = now - datetime.timedelta(seconds=age_s)
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "prestage-planner", "namespace": "prestage"},
        "spec": {
            "holderIdentity": "planner-1",
            "leaseDurationSeconds": 15,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
