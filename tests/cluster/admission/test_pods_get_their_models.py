"""Pods on their way into a real API server: what they get, by webhook and by policy; what is refused; what happens without us."""

from __future__ import annotations

import base64
import json
import signal
import time
from typing import cast

import pytest
from pods.objects import LLAMA, OTHER, container, pod

from cluster.apiserver import ApiServer
from cluster.pods import Admission, Scene, create, created, opened
from prestage.control.admission.app import LEAVING_S
from prestage.control.admission.manifests import Client, manifests
from prestage.control.gates.preference import place
from prestage.control.podspec import attributes_of, gates_of, is_ours, volumes_of
from prestage.kube.ports import Object

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]

ASKS = {"model.prestage.dev/llama": LLAMA}
MOUNT = "prestage_admission_answers_total{"


def by_hand(attributes: dict[str, str], *, name: str = "model", read_only: bool = True) -> dict[str, object]:
    return {"name": name, "csi": {"driver": "prestage.dev", "readOnly": read_only, "volumeAttributes": attributes}}


BY_HAND = by_hand({"model.prestage.dev/b": "ref:b"})
RIGHT: dict[str, dict[str, object]] = {
    "one line": pod(ASKS),
    "an accelerator beside a sidecar": pod(
        ASKS, spec={"containers": [container("istio-proxy"), container("a"), container("b", gpus=1)]}
    ),
    "no accelerator, a sidecar first": pod(ASKS, spec={"containers": [container("istio-proxy"), container("a")]}),
    "a claim": pod(
        ASKS,
        spec={
            "containers": [container("a"), container("b", resources={"claims": [{"name": "g"}]})],
            "resourceClaims": [{"name": "g", "resourceClaimName": "g"}],
        },
    ),
    "named containers, one of them init": pod(
        ASKS | {"prestage.dev/containers": "warmup, b"},
        spec={"initContainers": [container("warmup")], "containers": [container("a", gpus=1), container("b")]},
    ),
    "the hub's layout": pod(ASKS | {"prestage.dev/layout": "HuggingFace", "prestage.dev/mount-path": "/srv/m"}),
    "the hub's layout, half set": pod(
        ASKS | {"prestage.dev/layout": "HuggingFace", "prestage.dev/containers": "a,i"},
        spec={
            "containers": [
                container("a", env=[{"name": "HF_HUB_OFFLINE", "value": "0"}, {"name": "HF_MODULES_CACHE", "value": "/x"}])
            ],
            "initContainers": [container("i", env=[{"name": "HF_HUB_CACHE", "value": "/y"}])],
        },
    ),
    "flat": pod(ASKS | {"prestage.dev/layout": "Flat"}),
    "two models and volumes of its own": pod(
        ASKS | {"model.prestage.dev/b": "ref:team-b/support"},
        spec={
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [container(volumeMounts=[{"name": "data", "mountPath": "/data"}])],
        },
    ),
    "no token": pod(ASKS, spec={"automountServiceAccountToken": False}),
    "demand only": pod(ASKS | {"prestage.dev/wait": "None"}),
    "no gate": pod(ASKS | {"prestage.dev/wait": "Mount"}),
    "by hand": pod(
        {}, spec={"volumes": [BY_HAND], "containers": [container(volumeMounts=[{"name": "model", "mountPath": "/m"}])]}
    ),
}
WRONG: list[tuple[dict[str, object], str]] = [
    (pod(ASKS | {"prestage.dev/layot": "Flat"}), "prestage.dev/layot: there is no such annotation; write for example"),
    (pod(ASKS | {"prestage.dev/wait": "Perhaps"}), "none of Auto, Mount, None"),
    (pod({"model.prestage.dev/llama": "file:///x"}), "file:// is not served in a cluster"),
    (pod(ASKS | {"prestage.dev/containers": "sever"}), "there is no container"),
    (pod(ASKS | {"model.prestage.dev/b": LLAMA, "prestage.dev/layout": "Flat"}), "Flat is one model at the mount path"),
    (pod(spec={"volumes": [{"name": "prestage-models", "emptyDir": {}}]}), "the volume name prestage-models is ours"),
    (
        pod(
            spec={
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [container(volumeMounts=[{"name": "data", "mountPath": "/models/llama"}])],
            }
        ),
        "prestage.dev/mount-path: /srv/models",
    ),
    (pod(spec={"nodeSelector": {"kubernetes.io/os": "windows"}}), "Windows nodes"),
    (pod({}, spec={"volumes": [by_hand({"model.prestage.dev/b": "ref:b"}, read_only=False)]}), "models are mounted read-only"),
    (
        pod(
            {},
            spec={
                "volumes": [
                    {
                        "name": "m",
                        "csi": {
                            "driver": "prestage.dev",
                            "readOnly": True,
                            "volumeAttributes": {
                                "model.prestage.dev/a": "ref:a",
                                "csi.storage.k8s.io/serviceAccount.tokens": "{}",
                            },
                        },
                    }
                ]
            },
        ),
        "csi.storage.k8s.io/",
    ),
]


def named(seen: dict[str, object], name: str) -> dict[str, object]:
    return {**seen, "metadata": {**cast("dict[str, object]", seen["metadata"]), "name": name}}


def shape(seen: Object) -> object:
    """What was made of the pod's spec; without the token volume's name, which is drawn, and the gate, which takes state."""
    spec = {key: value for key, value in cast("dict[str, object]", seen["spec"]).items() if key != "schedulingGates"}
    text = json.dumps(spec, sort_keys=True)
    tokens = [str(one["name"]) for one in volumes_of(seen) if str(one["name"]).startswith("kube-api-access-")]
    for token in tokens:
        text = text.replace(token, "kube-api-access")
    return json.loads(text)


@pytest.fixture(scope="module")
def by_policy(admission: Admission) -> str:
    return opened(admission.api, "policy")


@pytest.fixture(scope="module")
def by_webhook(admission: Admission) -> str:
    return opened(admission.api, "webhook")


@pytest.fixture(scope="module")
def by_both(admission: Admission) -> str:
    return opened(admission.api, "policy", "webhook", "refuse")


@pytest.fixture(scope="module")
def by_refusal(admission: Admission) -> str:
    return opened(admission.api, "policy", "refuse")


def test_what_is_registered_is_taken_strictly_as_the_chart_has_it(api: ApiServer) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": manifests(Client())}
    done = api.try_kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=json.dumps(listed),
    )
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr


@pytest.mark.parametrize("asked", RIGHT.values(), ids=RIGHT.keys())
def test_webhook_and_policy_and_both_make_the_same_of_a_pod(
    api: ApiServer, by_webhook: str, by_policy: str, by_both: str, asked: dict[str, object]
) -> None:
    ways = {way: shape(created(api, way, asked, dry=True)) for way in (by_webhook, by_policy, by_both)}
    assert ways[by_policy] == ways[by_webhook]
    assert ways[by_both] == ways[by_webhook]


@pytest.mark.parametrize("asked", RIGHT.values(), ids=RIGHT.keys())
def test_the_policies_refuse_nothing_that_is_right(api: ApiServer, by_refusal: str, asked: dict[str, object]) -> None:
    created(api, by_refusal, asked, dry=True)


def test_the_pod_is_stored_with_volume_mount_and_environment(api: ApiServer, by_both: str) -> None:
    seen = created(api, by_both, named(RIGHT["the hub's layout"], "stored"))
    [volume] = [one for one in volumes_of(seen) if is_ours(one)]
    assert attributes_of(volume) == {"model.prestage.dev/llama": LLAMA, "prestage.dev/layout": "HuggingFace"}
    [server] = cast("list[dict[str, list[dict[str, object]]]]", seen["spec"]["containers"])
    assert {"name": "prestage-models", "mountPath": "/srv/m", "readOnly": True} in server["volumeMounts"]
    assert {one["name"]: one["value"] for one in server["env"]}["HF_HUB_CACHE"] == "/srv/m/.hf"


@pytest.mark.parametrize(("asked", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_mistakes_are_refused_in_our_words_with_and_without_the_webhook(
    api: ApiServer, by_webhook: str, by_refusal: str, asked: dict[str, object], says: str
) -> None:
    by_us = create(api, by_webhook, asked)
    assert says in by_us.stderr
    assert 'admission webhook "pods.prestage.dev" denied the request' in by_us.stderr
    by_the_server = create(api, by_refusal, asked)
    assert by_the_server.returncode != 0
    assert "ValidatingAdmissionPolicy 'pods.prestage.dev'" in by_the_server.stderr


def test_a_workloads_mistake_is_told_where_it_is_made_and_an_old_one_may_still_be_scaled(api: ApiServer, by_webhook: str) -> None:
    def deployment(annotations: dict[str, str], replicas: int = 1) -> str:
        template = {"metadata": {"labels": {"app": "a"}, "annotations": annotations}, "spec": {"containers": [container()]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template}
        return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat"}, "spec": spec})

    wrong = deployment({"model.prestage.dev/llama": "ftp://x"})
    refused = api.try_kubectl("create", "-n", by_webhook, "-f", "-", stdin=wrong)
    assert 'admission webhook "workloads.prestage.dev" denied the request' in refused.stderr
    namespace = opened(api)
    api.kubectl("create", "-n", namespace, "-f", "-", stdin=wrong)
    api.kubectl("label", "ns", namespace, "test.prestage.dev/webhook=true")
    api.kubectl("scale", "deployment/chat", "--replicas=2", "-n", namespace)
    api.kubectl("create", "-n", by_webhook, "-f", "-", stdin=deployment(ASKS))


def test_pods_that_ask_for_nothing_never_reach_us(admission: Admission, api: ApiServer, by_both: str) -> None:
    before = admission.metric(MOUNT)
    for name, asked in (("plain", pod({})), ("other", pod({"example.org/prestage.dev": "x"}))):
        created(api, by_both, named(asked, name))
    assert admission.metric(MOUNT) == before
    created(api, by_both, named(pod(ASKS), "asks"))
    after = admission.metric(MOUNT)
    assert before is not None
    assert after is not None
    assert after > before


def test_the_artifact_of_the_template_a_gate_and_a_preference(admission: Admission, api: ApiServer, by_both: str) -> None:
    scene = Scene(api, by_both)
    scene.state("Staging")

    def seen() -> dict[str, dict[str, object]]:
        return created(api, by_both, scene.pod("asked"), dry=True)

    admission.processes.wait_for(lambda: "prestage.dev/warm" in gates_of(seen()), what="a gate")
    [volume] = [one for one in volumes_of(seen()) if is_ours(one)]
    assert attributes_of(volume)["artifact.prestage.dev/llama"] == scene.digest
    created(api, by_both, scene.pod("gated"))
    mine = place({"metadata": {"uid": scene.uid}})
    api.kubectl("label", "node", scene.node, f"prestage.dev/place={mine}")
    scene.state("Warm")
    admission.processes.wait_for(lambda: gates_of(seen()) == [], what="no gate")
    assert mine in json.dumps(seen()["spec"]["affinity"])
    foreign = by_hand({"model.prestage.dev/a": "ref:a", "artifact.prestage.dev/a": OTHER})
    assert "this namespace has no such artifact" in create(api, by_both, pod({}, spec={"volumes": [foreign]})).stderr
    assert gates_of(scene.stored("gated")) == ["prestage.dev/warm"], "the guard leaves gates to who leads"
    scene.lead(age_s=20)
    scene.state("Staging")
    admission.processes.wait_for(lambda: gates_of(scene.stored("gated")) == [], what="the guard to take the gate off")
    assert gates_of(seen()) == [], "nobody leads: nothing is gated"


def test_two_replicas_share_one_certificate_and_either_may_go(admission: Admission, api: ApiServer) -> None:
    namespace = opened(api, "webhook")
    admission.start("second")
    bundle = admission.bundle()
    admission.register("second")
    try:
        created(api, namespace, named(pod(ASKS), "by-the-second"))
        admission.processes.wait_for(lambda: admission.metric(MOUNT, "second"), what="a review at the second replica")
        assert admission.bundle() == bundle
    finally:
        admission.register()
        admission.processes.signal("second", signal.SIGTERM)
        began_s = time.monotonic()
        while admission.metric(MOUNT, "second") is not None and time.monotonic() < began_s + 3 * LEAVING_S:
            time.sleep(0.05)
        admission.kill("second")
    took_s = time.monotonic() - began_s
    assert LEAVING_S <= took_s < 3 * LEAVING_S, "it answers on while somebody may still be sent to it"
    volumes = volumes_of(created(api, namespace, named(pod(ASKS), "by-the-first")))
    assert any(map(is_ours, volumes))


def test_a_rotated_certificate_is_trusted_and_served(admission: Admission, api: ApiServer) -> None:
    namespace = opened(api, "webhook")
    before = admission.bundle()
    api.kubectl("delete", "secret", "prestage-admission-tls", "-n", "prestage")
    admission.processes.wait_for(lambda: admission.bundle() not in (before, ""), what="a new caBundle", timeout_s=60)
    bundle = admission.bundle()
    assert bundle is not None
    assert b"BEGIN CERTIFICATE" in base64.b64decode(bundle)

    def served() -> bool:
        return any(map(is_ours, volumes_of(created(api, namespace, pod(ASKS), dry=True))))

    admission.processes.wait_for(served, what="a review over the new certificate", timeout_s=60)


def test_without_us_pods_are_made_with_their_volume_and_without_a_gate(
    admission: Admission, api: ApiServer, by_both: str
) -> None:
    admission.kill()
    try:
        seen = created(api, by_both, named(pod(ASKS), "alone"))
        assert any(map(is_ours, volumes_of(seen)))
        assert gates_of(seen) == []
        nothing = created(api, opened(api, "webhook"), pod(ASKS))
        assert not any(map(is_ours, volumes_of(nothing))), "where there is no policy the pod starts without its model"
        refused = create(api, by_both, pod(ASKS | {"prestage.dev/layot": "x"}))
        assert "there is no such annotation" in refused.stderr
    finally:
        admission.start()
