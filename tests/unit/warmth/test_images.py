"""Images in the Warm condition: beside models where a node is at them, and never instead of the kubelet's own pull."""

from __future__ import annotations

import datetime
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, ENGINE, IMAGE, NOW, artifact, image_artifact, node, node_cache, pod, staging_images
from pods.worlds import Clock, world

from prestage.api.brokerage import Refusal
from prestage.api.nodes import ErrorClass
from prestage.control.demand.records import Line
from prestage.control.gates.world import World
from prestage.control.warmth.condition import Reason, Sources, Told, told
from prestage.kube.ports import Object


def aged(seconds: float, *, on: str | None = None, phase: str = "Pending", **more: Any) -> Object:
    created = (NOW - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = pod(gpus=1, creationTimestamp=created, **more)
    spec = cast("dict[str, object]", made["spec"])
    return {**made, "spec": {**spec, **({"nodeName": on} if on else {})}, "status": {"phase": phase}}


def held(name: str, state: str | None = None, *, model: str = "Warm", **more: Any) -> Object:
    return staging_images(node_cache(name, {DIGEST: model}), state, **more)


def around(*objects: Object) -> World:
    return world(node("a"), node("b"), artifact(), image_artifact(), *objects)


def said(there: World, asked: Object, sources: Sources | None = None) -> tuple[Reason, str]:
    found = told(asked, there, sources)
    assert found is not None
    return found.reason, found.message


def test_a_bound_pod_is_warm_once_its_node_has_model_and_image() -> None:
    assert said(around(held("a", "Warm")), aged(1, on="a")) == (Reason.WARM, "Warm on a")
    words = f"Models warm on a, about 5 s left; image {ENGINE}"
    for more, how in (
        ({"step": "Download", "fetched": "150M"}, "download 30 %"),
        ({"step": "Unpack", "fetched": "500M"}, "unpack"),
        ({"step": "Resolve"}, "resolve"),
    ):
        assert said(around(held("a", "Staging", **more)), aged(1, on="a")) == (Reason.STAGING, f"{words} {how}")
    assert said(around(held("a", "Pending")), aged(1, on="a"))[1].endswith(f"image {ENGINE} waits for its turn")
    assert said(around(held("a")), aged(1, on="a"))[1].endswith(f"image {ENGINE} is to be staged")


def test_model_and_image_are_told_with_what_takes_longer() -> None:
    there = around(held("a", "Staging", model="Staging", rate=25_000_000, step="Download", fetched="5M"))
    assert said(there, aged(1)) == (Reason.STAGING, f"Staging on a, about 20 s left; image {ENGINE} download 1 %")
    slow = told(aged(1), around(held("a", "Staging", rate=1_000_000)))
    assert slow is not None
    assert (slow.late_s, slow.because) == (351.0, "1.5 GB take longer at the rate of a")


def test_a_pod_that_waits_is_warm_where_some_node_has_both() -> None:
    assert said(around(held("a", "Staging"), held("b", "Warm")), aged(1)) == (Reason.WARM, "Warm on 1 node")
    assert said(around(held("a", "Staging"), held("b", told=False)), aged(60))[0] is Reason.STAGING
    assert said(around(held("a", told=False)), aged(1)) == (
        Reason.STAGING,
        "Models warm on a; no node is told to stage its images yet",
    )
    assert said(around(held("a", told=False), held("b", told=False)), aged(10)) == (Reason.WARM, "Warm on 2 nodes")


def test_what_is_left_to_the_kubelet_is_said_beside_and_keeps_nobody_from_being_warm() -> None:
    failed = around(held("a", "Failed", errorClass="Denied", errorCode="Refused"))
    assert said(failed, aged(1, on="a")) == (Reason.WARM, f"Warm on a; the kubelet pulls {ENGINE} (Denied, Refused)")
    assert said(around(held("a", told=False)), aged(10, on="a")) == (Reason.WARM, f"Warm on a; the kubelet pulls {ENGINE}")
    assert said(around(node_cache("a", {DIGEST: "Warm"})), aged(1, on="a")) == (Reason.WARM, "Warm on a")
    assert said(around(held("a", "Staging")), aged(1, on="a", phase="Running")) == (Reason.WARM, "Warm on a"), "it is there"


def test_an_image_is_resolved_first_unless_the_broker_refuses_it_or_takes_too_long() -> None:
    there = world(node("a"), artifact(), held("a", told=False))
    assert said(there, aged(1)) == (Reason.NOT_RESOLVED, f"Resolving {ENGINE}")
    assert said(there, aged(10))[0] is Reason.WARM
    asked = list[Line]()

    def refused(line: Line) -> Refusal | None:
        asked.append(line)
        return Refusal(error_class=ErrorClass.DENIED, code="NoOriginForImages", message="no")

    assert said(there, aged(1), Sources(refusals=refused)) == (Reason.WARM, "Warm on 1 node")
    assert asked[0] == Line(asked[0].uid, "-", asked[0].alias, f"oci://{ENGINE}")
    nobody = world(node("a"), artifact(), node_cache("a", {DIGEST: "Warm"}))
    assert said(nobody, aged(1)) == (Reason.WARM, "Warm on 1 node"), "no node stages images"


def test_why_an_image_was_cold_stays_with_the_pod() -> None:
    def past(artifact: str, node: str, namespace: str, made: float) -> str:
        return "nobody had said it" if artifact == IMAGE else ""

    words = said(around(held("a", "Warm")), aged(43, on="a"), Sources(past=past))[1]
    assert words == f"Warm on a, 43 s after it was made: image {ENGINE}: nobody had said it"


STATES = st.sampled_from([None, "Pending", "Staging", "Warm", "Failed", "Releasing"])


@given(
    st.dictionaries(st.sampled_from("ab"), st.tuples(st.sampled_from(["Staging", "Warm", "Failed"]), STATES, st.booleans())),
    st.sampled_from([None, "a", "z"]),
    st.sampled_from([1, 60]),
)
def test_any_mixture_has_words_no_digest_of_a_registry_and_true_only_with_the_model(
    caches: dict[str, tuple[str, str | None, bool]], where: str | None, age: float
) -> None:
    objects = [held(name, image, model=model, told=is_told) for name, (model, image, is_told) in caches.items()]
    found: Told | None = told(
        aged(age, on=where), world(node("a"), node("b"), artifact(), image_artifact(), *objects, clock=Clock())
    )
    assert found is not None
    assert found.message
    assert "sha256" not in found.message
    holders = [where] if where else list(caches)
    if found.warm:
        assert any(caches[name][0] == "Warm" for name in holders if name in caches)
