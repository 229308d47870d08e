"""Two of each part of the control plane, and one of them ends, or is killed. Run by hand: `make rare-days`."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from story import Story, deployment, uploaded

pytestmark = [
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
    pytest.mark.timeout(600),
]
PARTS = ("admission", "planner", "broker")
WATCHED_S = 15.0
PODS = "/api/v1/namespaces/demo/pods"


@pytest.fixture(scope="module")
def two(story: Story) -> Iterator[Story]:
    """Two replicas of each, as the chart has them, and a Deployment whose template is known."""
    names = [f"deployment/prestage-{part}" for part in PARTS]
    story.cluster.kubectl("scale", "-n", "prestage", *names, "--replicas=2")
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("known"))
    story.installed.all_ready()
    story.available("known")
    yield story
    story.gone("known")
    story.cluster.kubectl("scale", "-n", "prestage", *names, "--replicas=1")
    story.installed.all_ready()


def another(story: Story) -> dict[str, Any]:
    """A pod as the ReplicaSet of `known` would make it."""
    [pod, *_] = story.pods("known")
    written = json.loads(deployment("known"))["spec"]["template"]
    labels = pod["metadata"]["labels"]
    head = {
        "generateName": "known-",
        "namespace": "demo",
        "labels": labels,
        "ownerReferences": pod["metadata"]["ownerReferences"],
    }
    metadata = {**head, "annotations": written["metadata"]["annotations"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": written["spec"]}


def made(story: Story, pod: dict[str, Any]) -> tuple[bool, bool]:
    """Has it its volume, and in it its artifact? Nothing is kept of it."""
    seen: Any = story.cluster.api.ask(f"{PODS}?dryRun=All", method="POST", body=pod)
    assert seen is not None, "a pod that was refused"
    attributes = [one["csi"]["volumeAttributes"] for one in seen["spec"].get("volumes", []) if "csi" in one]
    return bool(attributes), any("artifact.prestage.dev/llama" in one for one in attributes)


def reviews(pod: dict[str, Any]) -> float:
    """How many an admission replica has answered."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8081/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("prestage_admission_answers_total{"))


def asked_one(story: Story) -> dict[str, Any]:
    """The replica that the API server asks just now: it keeps its connections."""
    pods, pod = story.parts("admission"), another(story)
    before = [reviews(one) for one in pods]
    for _ in range(20):
        made(story, pod)
    more = [reviews(one) - count for one, count in zip(pods, before, strict=True)]
    return pods[more.index(max(more))]


def watched(story: Story, event: Callable[[], object]) -> tuple[int, list[float]]:
    """Pods are made all the time, from a second before `event` on: how many, and when those came that went by the webhook."""
    pod, missed, count = another(story), list[float](), 0
    began_s = time.monotonic()
    happened_s: float | None = None
    while (now_s := time.monotonic()) - began_s < WATCHED_S:
        if happened_s is None and now_s - began_s > 1:
            event()
            happened_s = time.monotonic()
        has_volume, has_artifact = made(story, pod)
        count += 1
        assert has_volume, "the policy's, whoever is away"
        if not has_artifact:
            missed.append(round(now_s - (happened_s or now_s), 2))
        time.sleep(0.02)
    return count, missed


def test_an_admission_replica_that_is_told_to_end_is_missed_by_no_pod(two: Story) -> None:
    name = asked_one(two)["metadata"]["name"]
    count, missed = watched(two, lambda: two.cluster.kubectl("delete", "pod", name, "-n", "prestage", "--wait=false"))
    print(f"\nadmission told to end: {count} pods, {len(missed)} without artifact {missed[:5]}")
    two.installed.ready("deployment/prestage-admission")
    assert missed == []


def test_a_rolling_restart_of_admission_is_missed_by_no_pod(two: Story) -> None:
    count, missed = watched(
        two, lambda: two.cluster.kubectl("rollout", "restart", "deployment/prestage-admission", "-n", "prestage")
    )
    print(f"\nadmission restarted: {count} pods, {len(missed)} without artifact {missed[:5]}")
    two.installed.ready("deployment/prestage-admission")
    assert missed == []


def test_an_admission_replica_that_is_killed_is_missed_for_seconds(two: Story) -> None:
    one = asked_one(two)
    count, missed = watched(two, lambda: two.killed(one))
    print(f"\nadmission killed: {count} pods, {len(missed)} without artifact, the last after {max(missed, default=0):.1f} s")
    assert max(missed, default=0) < 5
    two.installed.ready("deployment/prestage-admission")


def leader(story: Story) -> str:
    """The pod that holds the planner's lease."""
    lease = json.loads(story.cluster.kubectl("get", "lease", "prestage-planner", "-n", "prestage", "-o", "json"))
    return str(lease["spec"].get("holderIdentity", "")).rpartition("_")[0]


def test_when_the_leading_planner_is_killed_the_other_one_leads_and_plans(two: Story) -> None:
    before, ref = leader(two), "s3://models/llama/led/"
    sums = uploaded(two.origin, ref)
    [one] = [pod for pod in two.parts("planner") if pod["metadata"]["name"] == before]
    two.killed(one)
    began_s = time.monotonic()
    two.cluster.kubectl("apply", "-f", "-", stdin=deployment("led", ref=ref))
    two.told(lambda: leader(two) not in ("", before), "another leader", timeout_s=40)
    led_s = time.monotonic() - began_s
    two.available("led")
    print(f"\nanother planner led after {led_s:.1f} s; a pod with a new model ran after {time.monotonic() - began_s:.1f} s")
    [pod] = two.pods("led")
    assert two.answer(pod)["sums"] == sums
    two.gone("led")


def test_when_a_broker_is_killed_the_other_one_answers(two: Story) -> None:
    ref = "s3://models/llama/asked/"
    sums = uploaded(two.origin, ref)
    two.killed(two.parts("broker")[0])
    two.cluster.kubectl("apply", "-f", "-", stdin=deployment("asked", ref=ref))
    seconds = two.available("asked")
    print(f"\na pod with a new model ran {seconds:.1f} s after one of two brokers was killed")
    [pod] = two.pods("asked")
    assert two.answer(pod)["sums"] == sums
    two.gone("asked")
