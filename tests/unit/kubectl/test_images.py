"""What kubectl answers about images: which are staged for a pod, where, how far, why one was cold, and what the kubelet pulls."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
from pods.objects import DIGEST, ENGINE, IMAGE, artifact, container, image_artifact, node, node_cache, pod, staging_images

from prestage.api.artifacts import Artifact
from prestage.api.nodes import EntryType, HeldArtifact, NodeCache, State, Step
from prestage.api.reading import read
from prestage.kube.ports import Object, metadata_of
from prestage.kubectl import models, nodes
from prestage.kubectl.finding import Level
from prestage.kubectl.holdings import Holdings, about_model, about_node, about_pod
from prestage.kubectl.images import how_far
from prestage.kubectl.reasons import Evidence, findings
from prestage.kubectl.why import Asked, asked_for
from prestage.planner.decisions import Decided, Decision
from prestage.planner.demands import ToldBy

ENABLED: Object = {"metadata": {"name": "team-a", "labels": {"prestage.dev/enabled": "true"}}}
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def held(name: str, state: str | None = None, **more: Any) -> Object:
    return staging_images(node_cache(name, {DIGEST: "Warm"}), state, **more)


def evidence(*caches: Object, asked: Object | None = None, **more: Any) -> Evidence:
    seen = Evidence(
        asked or pod(gpus=1),
        ENABLED,
        artifacts=[artifact(), image_artifact()],
        caches=list(caches),
        replica_sets=[],
        events=[],
        nodes=[node("a"), node("b")],
    )
    return dataclasses.replace(seen, **more)


def said(seen: Evidence) -> list[tuple[Level, str]]:
    return [(one.level, one.says) for one in findings(seen) if one.about == "image"]


def bound(where: str, **spec: object) -> Object:
    return pod(gpus=1, spec={"nodeName": where, **spec})


SIZE = (Level.OK, f"{ENGINE}: {IMAGE[:19]}, 0.5 GB (amd64)")


def test_a_pods_image_is_said_with_its_size_where_it_is_and_how_far() -> None:
    seen = evidence(held("a", "Warm"), held("b", "Staging", step="Download", fetched="150M"))
    assert said(seen) == [
        SIZE,
        (Level.WAIT, f"{ENGINE} on b: download 30 %"),
        (Level.OK, f"{ENGINE} is warm on a"),
    ]
    assert said(evidence(held("a", "Staging", step="Unpack"), asked=bound("a")))[1] == (Level.WAIT, f"{ENGINE} on a: unpack")


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (held("a", "Failed", errorClass="Denied", errorCode="Refused"), "could not be staged on a (Denied, Refused)"),
        (held("a", told=False), "is not on a, and nothing has it stage it"),
        (node_cache("a", {DIGEST: "Warm"}), "a stages no images"),
    ],
)
def test_what_the_kubelet_pulls_is_said_with_its_reason(cache: Object, words: str) -> None:
    [first, (level, says)] = said(evidence(cache, held("b", told=False), asked=bound("a")))
    assert (first, level) == (SIZE, Level.NOTE)
    assert words in says
    assert says.endswith("; the kubelet pulls it")


def test_an_image_that_is_not_resolved_or_moves_is_said_and_where_nobody_stages_images_nothing_is() -> None:
    [(level, says)] = said(evidence(held("a", told=False), artifacts=[artifact()]))
    assert (level, says.startswith(f"{ENGINE} is not staged: it is being resolved, or no Origin")) == (Level.NOTE, True)
    always = [{**container(gpus=1), "imagePullPolicy": "Always"}]
    moving = said(evidence(held("a", "Warm"), asked=pod(gpus=1, spec={"containers": always})))
    assert moving[0][1] == f"{SIZE[1]}; its tag is looked up at every start, so nobody waits for it"
    assert said(evidence(node_cache("a", {DIGEST: "Warm"}))) == []
    assert said(evidence(caches=None)) == [SIZE], "who may not see nodes knows what it is, not where"


def test_why_an_image_was_cold_is_told_as_of_a_model() -> None:
    made = NOW.timestamp() - 60
    warm = {"type": "prestage.dev/Warm", "status": "True", "lastTransitionTime": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}
    asked = bound("a")
    head = {**metadata_of(asked), "creationTimestamp": datetime.datetime.fromtimestamp(made, datetime.UTC).isoformat()}
    asked = {**asked, "metadata": head, "status": {"conditions": [warm]}}
    story = [
        Decision(made - 900, Decided.WARM, DIGEST, ("a",)),
        Decision(made + 1, Decided.STAGE, IMAGE, ("a",), because=str(ToldBy.POD), namespace="team-a", by="Job/job"),
    ]
    found = [one.says for one in about_pod(evidence(held("a", "Warm"), asked=asked), story, NOW.timestamp())]
    assert [one for one in found if not one.startswith("image ")] == []
    assert found[0].startswith(f"image {ENGINE}: nobody had said that it would be wanted on a")


def test_an_image_is_asked_for_as_a_pod_names_it_and_found_where_it_is() -> None:
    assert asked_for(f"image/{ENGINE}") == Asked("model", ENGINE)
    caches = [held("a", "Warm"), held("b", "Staging", step="Unpack", fetched="500M")]
    for name in (ENGINE, f"oci://{ENGINE}", IMAGE):
        found = about_model(name, Holdings("team-a", artifacts=[image_artifact()], caches=caches, decisions=[], now=0.0))
        assert found is not None
        text = [f"{one.about}: {one.says}" for one in found]
        assert text[0] == f"artifact: {IMAGE[:19]}, 0.5 GB"
        assert "here: it is on a, whose plan wants it there" in text
        assert "coming: it is Staging (Unpack) on b" in text
    assert about_model("registry.test/other:1", Holdings("team-a", artifacts=[image_artifact()])) is None


def test_a_schedule_that_names_an_image_says_when_it_is_wanted_next() -> None:
    spec = {"artifacts": [{"name": "engine", "type": "Image", "image": ENGINE}], "nodes": {"selector": {}}}
    spec["windows"] = [{"name": "day", "readySchedule": "0 8 * * 1-5", "duration": "10h"}]
    made = {"apiVersion": "prestage.dev/v1alpha1", "kind": "StagingSchedule", "metadata": {"name": "s", "namespace": "team-a"}}
    coming = {"window": "day", "readyBy": "2030-03-18T08:00:00Z"}
    schedule: Object = {**made, "spec": spec, "status": {"next": coming}}
    found = about_model(ENGINE, Holdings("team-a", artifacts=[image_artifact()], schedules=[schedule], caches=[], decisions=[]))
    assert found is not None
    assert "StagingSchedule/s wants it ready by 2030-03-18T08:00:00Z" in [one.says for one in found]


def test_a_node_says_how_far_an_image_is_and_operators_hear_whose() -> None:
    cache = held("a", "Staging", step="Download", fetched="250M")
    [coming] = [one.says for one in about_node(cache, [artifact(), image_artifact()], [], 0.0) if one.about == "coming"]
    assert coming == f"{IMAGE[:19]} (team-a: oci://{ENGINE}) is Staging (Download, 50 %)"
    [row] = nodes.rows([read(NodeCache, cache)], NOW)
    assert (row.images, row.warm) == ("0 warm, 1 on its way (Download), 0 B of 100 GB", 1)


def test_the_list_of_models_says_how_far_images_are() -> None:
    caches = [read(NodeCache, held(name, "Staging", step="Unpack")) for name in ("a", "b")]
    caches.append(read(NodeCache, held("c", "Warm")))
    [row] = models.rows([], [read(Artifact, image_artifact())], caches)
    assert (row.name, row.kind, row.warm, row.wanted, row.message) == (ENGINE, "Image", 1, 3, "2 x Staging (Unpack)")


def test_how_far_says_no_more_than_is_known() -> None:
    def one(**more: Any) -> HeldArtifact:
        return HeldArtifact(digest=IMAGE, type=EntryType.IMAGE, state=State.STAGING, **more)

    assert how_far(one(), 10) == "Staging"
    assert how_far(one(step=Step.DOWNLOAD, fetched=5), None) == "Staging (Download)"
    assert how_far(one(step=Step.DOWNLOAD, fetched=11), 10) == "Staging (Download, 99 %)"
