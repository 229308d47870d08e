"""Mistakes: each is told with where, what and what to write; all at once; and what is right passes."""

from __future__ import annotations

import pytest
from pods.objects import DIGEST, LLAMA, container, pod

from prestage.api.annotations import Mistakes
from prestage.control.admission.mistakes import examined
from prestage.control.admission.mutation import mutated
from prestage.kube.ports import Object

ASKS = {"model.prestage.dev/llama": LLAMA}


def volume(attributes: dict[str, str] | None = None, *, name: str = "model", read_only: bool = True) -> dict[str, object]:
    given = {"model.prestage.dev/support": "ref:support"} if attributes is None else attributes
    return {"name": name, "csi": {"driver": "prestage.dev", "readOnly": read_only, "volumeAttributes": given}}


def mounting(path: str, name: str = "data") -> dict[str, object]:
    return container(volumeMounts=[{"name": name, "mountPath": path}])


LINUX_OR_NOT = {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}
REQUIRED = {"nodeSelectorTerms": [{"matchExpressions": [LINUX_OR_NOT]}]}

WRONG: list[tuple[str, Object, list[str]]] = [
    (
        "a name of ours is taken",
        pod(spec={"volumes": [{"name": "prestage-models", "emptyDir": {}}]}),
        ["volume name prestage-models"],
    ),
    (
        "a path is taken",
        pod(spec={"containers": [mounting("/models")]}),
        ["prestage.dev/mount-path", "'data' at /models", "/srv/models"],
    ),
    ("below our path", pod(spec={"containers": [mounting("/models/llama")]}), ["'data' at /models/llama"]),
    (
        "no such container",
        pod(ASKS | {"prestage.dev/containers": "sever"}),
        ["prestage.dev/containers", "no container 'sever'; there are server", "prestage.dev/containers: server"],
    ),
    ("windows", pod(spec={"nodeSelector": {"kubernetes.io/os": "windows"}}), ["Windows nodes", 'kubernetes.io/os: "linux"']),
    ("windows by its own word", pod(spec={"os": {"name": "windows"}}), ["spec.os.name"]),
    (
        "windows by affinity",
        pod(spec={"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": REQUIRED}}}),
        ["nodeAffinity sends this pod to Windows"],
    ),
    (
        "contradictions",
        pod(ASKS | {"prestage.dev/wait": "Mount", "prestage.dev/gate-timeout": "3m"}),
        ["with prestage.dev/wait: Mount"],
    ),
    ("two at one path", pod(ASKS | {"model.prestage.dev/b": LLAMA, "prestage.dev/layout": "Flat"}), ["Flat is one model"]),
    (
        "unknown",
        pod(ASKS | {"prestage.dev/layot": "Flat"}),
        ["prestage.dev/layot: there is no such annotation", "prestage.dev/layout"],
    ),
    ("an artifact named by a user", pod(ASKS | {"artifact.prestage.dev/llama": DIGEST}), ["only admission writes it"]),
    (
        "two models with one name",
        pod(spec={"volumes": [volume({"model.prestage.dev/llama": "ref:other"})]}),
        ["model.prestage.dev/llama: two models with one name", LLAMA, "ref:other"],
    ),
    ("writable", pod({}, spec={"volumes": [volume(read_only=False)]}), ["volume model: models are mounted read-only"]),
    ("no model", pod({}, spec={"volumes": [volume({})]}), ["no model is named"]),
    (
        "unknown attribute",
        pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "size": "1"})]}),
        ["size: there is no such"],
    ),
    (
        "a setting that is no attribute",
        pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "prestage.dev/wait": "Mount"})]}),
        ["prestage.dev/wait: there is no such attribute"],
    ),
    (
        "the kubelet's",
        pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "csi.storage.k8s.io/serviceAccount.tokens": "{}"})]}),
        ["serviceAccount.tokens: only the kubelet writes it"],
    ),
    ("a bad ref by hand", pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "file:///x"})]}), ["file:// is not served"]),
    (
        "an artifact that is not its own",
        pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "artifact.prestage.dev/a": DIGEST})]}),
        ["artifact.prestage.dev/a: only admission writes it: this namespace has no such artifact"],
    ),
    (
        "an artifact without a model",
        pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "artifact.prestage.dev/b": DIGEST})]}),
        ["there is no model of that name"],
    ),
    (
        "two layouts",
        pod(
            spec={"volumes": [volume({"model.prestage.dev/llama": LLAMA, "prestage.dev/layout": "Flat"}, name="prestage-models")]}
        ),
        ["prestage.dev/layout: volume prestage-models says Flat"],
    ),
]


@pytest.mark.parametrize(("asked", "says"), [(asked, says) for _, asked, says in WRONG], ids=[name for name, _, _ in WRONG])
def test_what_is_wrong_is_told(asked: Object, says: list[str]) -> None:
    with pytest.raises(Mistakes) as caught:
        examined(asked, lambda digest: False)
    text = str(caught.value)
    for one in says:
        assert one in text
    assert all(mistake.annotation and mistake.wrong and mistake.example for mistake in caught.value.mistakes)


def test_all_mistakes_are_told_at_once() -> None:
    asked = pod(ASKS | {"prestage.dev/x": "1"}, spec={"volumes": [volume(read_only=False)], "os": {"name": "windows"}})
    with pytest.raises(Mistakes) as caught:
        examined(asked)
    assert len(caught.value.mistakes) == 2, "a request that cannot be read says nothing about the pod"
    asked = pod(ASKS, spec={"volumes": [volume(read_only=False)], "os": {"name": "windows"}, "containers": [mounting("/models")]})
    with pytest.raises(Mistakes) as caught:
        examined(asked)
    assert len(caught.value.mistakes) == 3


@pytest.mark.parametrize(
    "asked",
    [
        pod(),
        pod({}),
        pod(ASKS | {"prestage.dev/containers": "warmup"}, spec={"initContainers": [container("warmup")]}),
        pod(spec={"containers": [mounting("/model")]}),
        pod(spec={"containers": [mounting("/modelsandmore")]}),
        pod(spec={"nodeSelector": {"kubernetes.io/os": "linux"}}),
        pod(ASKS | {"prestage.dev/wait": "None"}, spec={"os": {"name": "windows"}}),
        pod({}, spec={"volumes": [volume()]}),
        pod(spec={"volumes": [volume()]}),
        pod(spec={"volumes": [volume(ASKS)]}),
    ],
)
def test_what_is_right_passes_also_a_second_time(asked: Object) -> None:
    request = examined(asked)
    assert examined(mutated(asked, request)) == request


def test_our_own_artifact_attribute_passes() -> None:
    asked = pod({}, spec={"volumes": [volume({"model.prestage.dev/a": "ref:a", "artifact.prestage.dev/a": DIGEST})]})
    examined(asked, lambda digest: digest == DIGEST)
