"""A pod's image beside its model: what it is held for, what it never is, and which nodes it prefers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, ENGINE, GATE, IMAGE, artifact, container, image_artifact, node, node_cache, pod, staging_images
from pods.worlds import Clock, drop, put, world

from prestage.api.annotations import parse
from prestage.control.admission.mistakes import models_of
from prestage.control.gates.decision import Decision, Reason, decide
from prestage.control.gates.images import Standing, image_outlook
from prestage.control.gates.looking import Look
from prestage.control.gates.preference import place
from prestage.control.gates.situation import Surroundings, surroundings
from prestage.control.gates.world import World
from prestage.control.podspec import annotations_of, part
from prestage.kube.ports import Object


def seen(there: World, asked: Object, *, waited_s: float = 0.0) -> Surroundings:
    request = parse(annotations_of(asked))
    return surroundings(asked, request, models_of(asked, request), look=Look(there), waited_s=waited_s)


def reason(there: World, asked: Object, *, waited_s: float = 0.0) -> Reason:
    return decide(seen(there, asked, waited_s=waited_s).situation).reason


def held(name: str, state: str | None = None, *, model: str | None = "Warm", **more: Any) -> Object:
    """A NodeCache of a node that stages images."""
    return staging_images(node_cache(name, {DIGEST: model} if model else {}), state, **more)


def around(*objects: Object, clock: Clock | None = None) -> World:
    return world(node("a"), node("b"), artifact(), image_artifact(), *objects, clock=clock)


def test_a_node_is_warm_with_model_and_image() -> None:
    got = seen(around(held("a", "Warm"), held("b", "Staging")), pod(gpus=1))
    assert decide(got.situation).reason is Reason.WARM_NODE
    assert (got.warm, got.places) == (("a", "b"), (place(node("a")),))


def test_an_image_on_its_way_beside_a_warm_model_is_waited_for_in_time_only() -> None:
    got = seen(around(held("a", "Staging")), pod(gpus=1))
    assert (decide(got.situation).reason, got.situation.ready_in_s) == (Reason.READY_SOON, 5.0), "500 MB at 100 MB/s"
    slow = around(held("a", "Staging", rate=1_000_000))
    assert reason(slow, pod(gpus=1)) is Reason.TOO_LATE
    assert seen(slow, pod(gpus=1)).warm == ("a",), "its model is there: it lands there, and the kubelet pulls"


def test_model_and_image_are_both_waited_for_where_neither_is_there() -> None:
    got = seen(around(held("a", "Pending", model="Staging", rate=25_000_000)), pod(gpus=1))
    assert (decide(got.situation).reason, got.situation.ready_in_s) == (Reason.READY_SOON, 20.0), "the later of both"
    assert seen(around(held("a", "Failed", model="Staging")), pod(gpus=1)).situation.ready_in_s == 10.0, "the model alone"


def test_what_no_plan_names_yet_is_waited_for_a_moment_only() -> None:
    there = around(held("a", told=False))
    assert reason(there, pod(gpus=1)) is Reason.PLANNING
    assert reason(there, pod(gpus=1), waited_s=3.0) is Reason.IMAGE_PULLED
    assert reason(around(held("a", told=False, room="400M")), pod(gpus=1)) is Reason.IMAGE_PULLED, "it would not fit"


def image_of(policy: str | None, image: str = ENGINE) -> Object:
    more = {"imagePullPolicy": policy} if policy else {}
    return pod(gpus=1, spec={"containers": [{**container(gpus=1), "image": image, **more}]})


@pytest.mark.parametrize(
    ("objects", "asked"),
    [
        ([node_cache("a", {DIGEST: "Warm"})], pod(gpus=1)),
        ([held("a", "Staging", snapshotter="stargz", remote=["stargz"])], pod(gpus=1)),
        ([held("a", "Staging", room=None)], pod(gpus=1)),
        ([held("a", "Staging")], image_of("Always")),
        ([held("a", "Staging")], image_of(None, "registry.test/app")),
        ([held("a", "Staging")], image_of("Never")),
    ],
    ids=["no images container", "remote snapshotter", "disk not seen", "a tag that is always pulled", "latest", "never pulled"],
)
def test_what_nobody_stages_or_the_kubelet_decides_holds_no_pod(objects: list[Object], asked: Object) -> None:
    assert reason(around(*objects), asked) is Reason.WARM_NODE


def test_an_image_that_the_broker_has_not_resolved_or_refused_holds_no_pod() -> None:
    there = world(node("a"), artifact(), held("a", told=False))
    assert reason(there, pod(gpus=1)) is Reason.WARM_NODE
    foreign = image_artifact()
    put(there, {**foreign, "metadata": {**part(foreign, "metadata"), "namespace": "team-b"}})
    assert reason(there, pod(gpus=1)) is Reason.WARM_NODE, "another namespace's record says nothing"


def test_an_image_that_is_being_resolved_is_waited_for_a_moment_where_its_repository_is_known() -> None:
    there = world(node("a"), artifact(), held("a", told=False))
    asked = image_of(None, "registry.test/app:2")
    assert reason(there, asked) is Reason.WARM_NODE
    put(there, image_artifact())
    assert reason(there, asked) is Reason.PLANNING
    assert reason(there, asked, waited_s=3.0) is Reason.IMAGE_PULLED
    assert reason(there, image_of(None, "registry.test/other:2")) is Reason.WARM_NODE
    put(there, node_cache("a", {DIGEST: "Warm"}))
    assert reason(there, asked) is Reason.WARM_NODE, "the node stages none"
    put(there, held("a", told=False))
    drop(there, image_artifact())
    assert reason(there, asked) is Reason.WARM_NODE, "no record is left of it"


def test_an_image_whose_staging_failed_or_whose_container_is_silent_holds_no_pod() -> None:
    assert reason(around(held("a", "Failed", errorClass="Denied", errorCode="Refused")), pod(gpus=1)) is Reason.IMAGE_PULLED
    clock = Clock()
    there = around(held("a"), clock=clock)
    assert reason(there, pod(gpus=1)) is Reason.READY_SOON, "it was told just now"
    clock.at_s += 10
    assert reason(there, pod(gpus=1)) is Reason.IMAGE_PULLED, "and does not say that it heard"
    put(there, held("a", "Pending"))
    assert reason(there, pod(gpus=1)) is Reason.READY_SOON


def test_a_digest_counts_whatever_the_pull_policy_and_each_architecture_has_its_own() -> None:
    pinned = f"registry.test/app@sha256:{'1' * 64}"
    there = world(node("a"), artifact(), image_artifact(image=pinned), held("a", "Staging"))
    assert reason(there, image_of("Always", pinned)) is Reason.READY_SOON
    arm = node("a")
    labels = {**part(arm, "metadata", "labels"), "kubernetes.io/arch": "arm64"}
    arm["metadata"] = {**part(arm, "metadata"), "labels": labels}
    assert reason(world(arm, artifact(), image_artifact(), held("a", "Staging")), pod(gpus=1)) is Reason.WARM_NODE
    both = world(arm, artifact(), image_artifact(architecture="arm64"), held("a", "Staging"))
    assert reason(both, pod(gpus=1)) is Reason.READY_SOON


def test_nodes_that_hold_both_are_preferred_and_where_none_does_those_that_hold_the_model() -> None:
    assert seen(around(held("a", told=False), held("b", "Warm")), pod(gpus=1)).places == (place(node("b")),)
    plain = around(node_cache("a", {DIGEST: "Warm"}), held("b", "Warm"))
    assert seen(plain, pod(gpus=1)).places == (place(node("b")),), "the other one pulls"
    assert set(seen(around(held("a", told=False), held("b", "Staging")), pod(gpus=1)).places) == {
        place(node("a")),
        place(node("b")),
    }


def test_a_node_that_begins_to_stage_images_concerns_all_and_then_what_it_says_of_one_concerns_its_pods() -> None:
    gated = pod(gpus=1, spec={"schedulingGates": [GATE]})
    there = around(node_cache("a", {DIGEST: "Warm"}), gated)
    touched = there.touched()
    put(there, held("a", told=False))
    assert touched.take() is None
    for state in (None, "Pending", "Warm"):
        put(there, held("a", state))
        assert touched.take() == {("team-a", "p")}
    put(there, held("a", "Warm"))
    assert touched.take() == set()
    put(there, node_cache("a", {DIGEST: "Warm"}))
    assert touched.take() is None


STATES = st.sampled_from([None, "Pending", "Staging", "Warm", "Failed", "Releasing"])
HELD = st.tuples(STATES, STATES, st.booleans(), st.sampled_from(["1G", "1M"]), st.booleans())


@given(st.dictionaries(st.sampled_from("ab"), HELD), st.floats(0, 200), st.booleans())
def test_a_pod_is_held_for_an_image_only_while_somebody_is_at_it_and_never_where_models_alone_would_not_fail(
    caches: dict[str, tuple[str | None, str | None, bool, str, bool]], waited_s: float, is_known: bool
) -> None:
    objects, plain = list[Object](), list[Object]()
    for name, (model, image, is_told, room, is_staging) in caches.items():
        bare = node_cache(name, {DIGEST: model} if model else {})
        objects.append(staging_images(bare, image, told=is_told, room=room) if is_staging else bare)
        plain.append(bare)
    known = [image_artifact()] if is_known else []
    there = world(node("a"), node("b"), artifact(), *known, *objects)
    got = seen(there, pod(gpus=1), waited_s=waited_s)
    verdict = decide(got.situation)
    without = decide(seen(world(node("a"), node("b"), artifact(), *plain), pod(gpus=1), waited_s=waited_s).situation)
    if verdict.decision is Decision.GATE and without.decision is not Decision.GATE:
        standings = {name: image_outlook([IMAGE], there.holding(name), there.sizes, there.clock()).standing for name in got.warm}
        is_at_it = Standing.COMING in standings.values()
        assert is_known
        assert is_at_it or (waited_s < 3 and Standing.POSSIBLE in standings.values())
    if verdict.decision is Decision.FAIL:
        assert without.decision is Decision.FAIL
