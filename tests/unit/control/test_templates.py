"""Which template a pod is of."""

from __future__ import annotations

import pytest

from prestage.api.brokerage import Template
from prestage.control.templates import template_of
from prestage.kube.ports import Object


def ref(kind: str, name: str, uid: str, *, controller: bool = True) -> dict[str, object]:
    return {"kind": kind, "name": name, "uid": uid, "controller": controller}


def pod(*owners: dict[str, object], uid: str = "pod-uid", **labels: str) -> Object:
    said = {name.replace("_", "-"): value for name, value in labels.items()}
    return {"metadata": {"namespace": "team", "name": "p", "uid": uid, "labels": said, "ownerReferences": list(owners)}}


def replica_set(*owners: dict[str, object], uid: str = "rs-uid") -> Object:
    return {"metadata": {"namespace": "team", "name": "web-abc", "uid": uid, "ownerReferences": list(owners)}}


def nobody(namespace: str, name: str) -> Object | None:
    return None


def test_a_pod_of_a_deployment_is_of_the_deployment_at_that_hash() -> None:
    held = replica_set(ref("Deployment", "web", "d-uid"))
    one = pod(ref("ReplicaSet", "web-abc", "rs-uid"), pod_template_hash="abc")
    assert template_of(one, lambda namespace, name: held) == Template(uid="d-uid", hash="abc")


def test_a_pod_of_an_argo_rollout_is_of_the_rollout() -> None:
    held = replica_set(ref("Rollout", "web", "r-uid"))
    one = pod(ref("ReplicaSet", "web-abc", "rs-uid"), rollouts_pod_template_hash="abc")
    assert template_of(one, lambda namespace, name: held) == Template(uid="r-uid", hash="abc")


def test_the_same_holds_at_admission_where_the_pod_has_no_uid_yet() -> None:
    held = replica_set(ref("Deployment", "web", "d-uid"))
    one = pod(ref("ReplicaSet", "web-abc", "rs-uid"), uid="", pod_template_hash="abc")
    assert template_of(one, lambda namespace, name: held) == Template(uid="d-uid", hash="abc")


def test_a_replica_set_by_itself_is_the_template() -> None:
    held = replica_set()
    one = pod(ref("ReplicaSet", "web-abc", "rs-uid"), pod_template_hash="abc")
    assert template_of(one, lambda namespace, name: held) == Template(uid="rs-uid", hash="-")


def test_a_replica_set_that_was_not_seen_or_was_made_anew_tells_nothing() -> None:
    one = pod(ref("ReplicaSet", "web-abc", "rs-uid"), pod_template_hash="abc")
    other = replica_set(ref("Deployment", "web", "d-uid"), uid="another")
    assert template_of(one, nobody) is None
    assert template_of(one, lambda namespace, name: other) is None


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_a_pod_of_a_set_is_of_its_revision(kind: str) -> None:
    one = pod(ref(kind, "web", "s-uid"), controller_revision_hash="web-77")
    assert template_of(one, nobody) == Template(uid="s-uid", hash="web-77")


@pytest.mark.parametrize("kind", ["Job", "RayCluster"])
def test_a_job_or_a_foreign_controller_is_the_template(kind: str) -> None:
    assert template_of(pod(ref(kind, "j", "j-uid")), nobody) == Template(uid="j-uid", hash="-")


def test_a_pod_by_itself_is_its_own_template_once_it_has_a_uid() -> None:
    assert template_of(pod(), nobody) == Template(uid="pod-uid", hash="-")
    assert template_of(pod(uid=""), nobody) is None


def test_a_static_pod_is_by_itself() -> None:
    assert template_of(pod(ref("Node", "n1", "n-uid")), nobody) == Template(uid="pod-uid", hash="-")


def test_an_owner_that_does_not_control_counts_for_nothing() -> None:
    assert template_of(pod(ref("Job", "j", "j-uid", controller=False)), nobody) == Template(uid="pod-uid", hash="-")
