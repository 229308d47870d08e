"""Images as demand: of pods with models, and of schedules alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.objects import (
    Mirrored,
    artifact,
    deployment,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    schedule,
    template,
)

from prestage.api.nodes import EntryType
from prestage.control.demand.collecting import Collected, Collector
from prestage.control.demand.image_lines import (
    image_question,
    is_image,
    platform_in,
    pulled_images,
    ref_of,
    repository_of,
    shown,
)
from prestage.control.demand.records import Line
from prestage.kube.ports import Object
from prestage.planner.demands import Demand, Trust

ENGINE = "registry.example/vllm:0.33"
REF = f"oci://{ENGINE}"
IMAGES = {"runtime": "2.1.9", "snapshotter": "overlayfs", "budget": "1Gi"}
NOW = 1_790_000_000.0


def with_image(*, policy: str | None = None, on: str | None = None, phase: str = "Pending", **spec: object) -> Object:
    made = template()
    inner = made["spec"]
    assert isinstance(inner, dict)
    [container] = inner["containers"]
    container |= {"image": ENGINE, **({"imagePullPolicy": policy} if policy else {})}
    return pod(owner=("ReplicaSet", "web-abc"), on=on, phase=phase, made={**made, "spec": {**inner, **spec}})


def on_arch(name: str, arch: str) -> Object:
    labels: dict[str, Any] = {"kubernetes.io/arch": arch}
    return node(name, **labels)


def around(*objects: Object, images: bool = True, arch: str = "amd64") -> Mirrored:
    cache = node_cache("n1", images=IMAGES) if images else node_cache("n1")
    return Mirrored(namespace(), on_arch("n1", arch), cache, replica_set(), deployment(), *objects)


def known(uid: str = "web-uid", hash_: str = "abc", arch: str = "amd64") -> Object:
    return artifact("engine", image_question("team", uid, hash_, REF, arch, ()).line, size=500)


def collected(*objects: Object, images: bool = True, arch: str = "amd64") -> Collected:
    return Collector().collect(around(*objects, images=images, arch=arch), now=NOW)


def of_images(found: Collected) -> dict[Trust, Demand]:
    return {one.trust: one for one in found.demands if one.kind is EntryType.IMAGE}


def asked(found: Collected) -> list[Line]:
    return [one.line for one in found.questions if is_image(one.line)]


def test_a_pods_image_is_asked_for_once_with_its_platform_and_pull_secrets() -> None:
    found = collected(with_image(imagePullSecrets=[{"name": "regcred"}]), arch="arm64")
    [question] = [one for one in found.questions if is_image(one.line)]
    assert (question.line.uid, question.line.hash, question.line.ref) == ("web-uid", "abc", REF)
    assert (platform_in(question.line), question.pull_secrets, question.namespace) == ("linux/arm64", ("regcred",), "team")
    assert (shown(question.line), shown(line())) == ("image", "model llama")
    assert platform_in(line()) is None


def test_a_waiting_pods_image_waits_with_its_model_and_lies_apart() -> None:
    model = artifact("model", line())
    found = collected(with_image(), known(), model)
    image = of_images(found)[Trust.WAITING]
    [other] = [one for one in found.demands if one.trust is Trust.WAITING and one.kind is EntryType.MODEL]
    assert (image.size_bytes, image.at, image.feasible, image.count) == (500, {"n1": 4}, frozenset({"n1"}), 1)
    assert image.together == other.together != ""
    assert Trust.STANDING in of_images(found)


def test_a_pod_on_its_node_needs_its_image_until_its_containers_run() -> None:
    assert of_images(collected(with_image(on="n1"), known()))[Trust.BOUND].at == {"n1": 1}
    assert set(of_images(collected(with_image(on="n1", phase="Running"), known()))) == {Trust.STANDING}


def test_a_pod_that_was_put_where_it_would_not_fit_needs_its_image_there_too() -> None:
    elsewhere = with_image(on="n1", nodeSelector={"no": "node"})
    bound = of_images(collected(elsewhere, known()))[Trust.BOUND]
    assert (bound.at, bound.feasible) == ({"n1": 1}, frozenset())


def test_nothing_is_asked_of_what_is_never_pulled_nor_where_no_node_stages_images_nor_of_pods_without_models() -> None:
    assert asked(collected(with_image()))
    assert not asked(collected(with_image(policy="Never")))
    assert not asked(collected(with_image(), images=False))
    bare = with_image()
    metadata = bare["metadata"]
    assert isinstance(metadata, Mapping)
    assert not asked(collected({**bare, "metadata": {**metadata, "annotations": {}}}))


def test_images_are_those_of_volumes_init_containers_and_containers_in_the_order_of_their_pulls() -> None:
    spec = {
        "volumes": [{"name": "v", "image": {"reference": "r.example/data:1"}}, {"name": "other", "emptyDir": {}}],
        "initContainers": [{"name": "i", "image": "busybox"}],
        "containers": [{"name": "a", "image": ENGINE}, {"name": "b", "image": ENGINE}, {"name": "c", "image": "not an image"}],
        "imagePullSecrets": [{"name": "one"}, {"name": "one"}, {}],
    }
    found = pulled_images(spec)
    assert found.refs == ("oci://r.example/data:1", "oci://docker.io/library/busybox:latest", REF)
    assert found.secrets == ("one",)


@pytest.mark.parametrize(
    ("ref", "repository"),
    [
        (REF, "oci://registry.example/vllm"),
        (f"oci://registry.example:5000/team/app@sha256:{'a' * 64}", "oci://registry.example:5000/team/app"),
        (f"oci://registry.example/app:1@sha256:{'a' * 64}", "oci://registry.example/app"),
        ("oci://registry.example:5000/app", "oci://registry.example:5000/app"),
    ],
)
def test_a_repository_is_an_image_without_its_tag(ref: str, repository: str) -> None:
    assert repository_of(ref) == repository


def test_a_tag_that_is_looked_up_at_every_start_is_staged_and_awaited_by_nobody() -> None:
    pinned = f"registry.example/vllm@sha256:{'a' * 64}"
    images = [(ENGINE, "IfNotPresent"), ("registry.example/x:1", "Always"), ("registry.example/y", None), (pinned, "Always")]
    spec = {"containers": [{"name": "c", "image": image, "imagePullPolicy": policy} for image, policy in images]}
    found = pulled_images(spec)
    assert len(found.refs) == 4
    assert found.awaited == (REF, f"oci://{pinned}")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "name", "reference", "volumes", "containers"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["volumes", "containers", "initContainers", "imagePullSecrets"]), _JSON))
def test_whatever_stands_in_a_spec_is_read(spec: dict[str, object]) -> None:
    found = pulled_images(spec)
    assert all(one.startswith("oci://") for one in found.refs)


def images_of(image: str = ENGINE, **more: object) -> Object:
    made = schedule("day", {"name": "always"})
    spec = made["spec"]
    assert isinstance(spec, dict)
    spec["artifacts"] = [{"name": "engine", "type": "Image", "image": image, **more}]
    return made


def test_a_schedule_names_an_image_alone() -> None:
    found = collected(images_of(pullSecretRef={"name": "regcred"}))
    [question] = [one for one in found.questions if is_image(one.line)]
    assert (question.line.uid, question.line.hash, question.line.ref) == ("day-uid", "1", REF)
    assert question.pull_secrets == ("regcred",)
    [demand] = collected(images_of(), known("day-uid", "1")).demands
    assert (demand.trust, demand.kind, demand.at, demand.count) == (Trust.DECLARED, EntryType.IMAGE, {"n1": 1}, 1)


def test_of_nodes_of_two_architectures_each_gets_its_own() -> None:
    mirrors = around(images_of(), known("day-uid", "1"), on_arch("n2", "arm64"))
    found = Collector().collect(mirrors, now=NOW)
    assert [platform_in(one) for one in asked(found)] == ["linux/arm64"]
    [demand] = found.demands
    assert (demand.feasible, demand.count) == (frozenset({"n1"}), 1)


@pytest.mark.parametrize("image", ["", "reg.example/UPPER", "a b"])
def test_what_is_no_image_is_a_problem_of_the_schedule(image: str) -> None:
    [declaration] = collected(images_of(image or " ")).declarations
    assert [one.reason for one in declaration.problems] == ["NoImage"]
    assert ref_of(image) is None


def test_what_a_workload_declares_for_later_is_its_image_too() -> None:
    later = {"ready-schedule": "0 8 * * *", "duration": "1h", "replicas": "1"}
    made = with_image()["spec"]
    assert isinstance(made, dict)
    pods = {"annotations": template()["annotations"], "spec": made}
    sleeping = [deployment(size=0, made=pods, said=later), replica_set(replicas=0, made=pods)]
    cache = node_cache("n1", images=IMAGES)
    found = Collector().collect(Mirrored(namespace(), on_arch("n1", "amd64"), cache, *sleeping), now=NOW)
    assert [(one.uid, one.hash, one.ref) for one in asked(found)] == [("web-uid", "abc", REF)]
    assert {due.asked.name for due in found.dues.values()} == {"llama", ENGINE}
    assert not asked(Collector().collect(Mirrored(namespace(), on_arch("n1", "amd64"), *sleeping), now=NOW))
