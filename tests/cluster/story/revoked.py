"""Access that ends, as pods meet it: a wall that closes, a grant that is taken back, a Secret that goes. Minutes, most of them
kept answers and the kubelet's back-off: run by hand, `make rare-days`.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from story import Story, deployment, uploaded

from prestage.kubectl.cli import kubectl_prestage

pytestmark = [
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
    pytest.mark.timeout(600),
]
KEPT_S = 31
"""The broker's word counts for 30 s."""
OWNERS, WALLED, SHARED, KEYED = "owners", "s3://models/llama/walled/", "s3://models/llama/shared/", "s3://models/llama/keyed/"
GRANT = {
    "apiVersion": "prestage.dev/v1alpha1",
    "kind": "StagedModelGrant",
    "metadata": {"name": "demo", "namespace": OWNERS},
    "spec": {"from": [{"namespace": "demo"}], "to": [{"name": "shared"}]},
}


def model(name: str, namespace: str, source: str, **more: object) -> str:
    spec = {"source": source, "credentials": {"type": "Secret", "secretRef": {"name": "s3"}}, **more}
    head = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "prestage.dev/v1alpha1", "kind": "StagedModel", "metadata": head, "spec": spec})


def secret(story: Story) -> dict[str, Any]:
    """Demo's, as it can be applied again, elsewhere too."""
    found: dict[str, Any] = json.loads(story.cluster.kubectl("get", "secret", "s3", "-n", "demo", "-o", "json"))
    return {key: found[key] for key in ("apiVersion", "kind", "type", "data")}


def refused(story: Story, app: str, words: str) -> dict[str, Any]:
    """The newest pod of `app`, once an Event of it says so; prints what it is told."""
    began_s = time.monotonic()
    pod = story.pods(app)[-1]
    name = pod["metadata"]["name"]

    def said() -> tuple[str, str] | None:
        return next((one for one in story.events(name) if words in one[1]), None)

    story.told(said, f"an Event of {name}: {words}", timeout_s=150)
    print(f"\n{app} is told after {time.monotonic() - began_s:.1f} s: {said()}")
    return pod


def artifact_of(story: Story, ref: str, namespace: str) -> dict[str, Any]:
    items = json.loads(story.cluster.kubectl("get", "artifacts", "-n", namespace, "-o", "json"))["items"]
    [found] = [one for one in items if one["spec"].get("ref") == ref]
    return dict(found)


def refused_since(story: Story, name: str, source: str) -> None:
    """As if the origin had said its first no a quarter of an hour ago: the next one counts."""
    past = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=15)).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {"source": source, "state": "Doubted", "checkedAt": past, "refusedSince": past}
    patch = json.dumps({"status": {"access": [row]}})
    story.cluster.kubectl("patch", "artifact", name, "-n", "demo", "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture(scope="module")
def steady(story: Story) -> Iterator[Story]:
    """A Deployment that all of it does not concern."""
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("steady"))
    story.available("steady")
    yield story
    story.gone("steady")


def comes_back(story: Story, app: str, repair: Callable[[], object]) -> None:
    began_s = time.monotonic()
    repair()
    story.available(app, timeout_s=240)
    print(f"{app} ran {time.monotonic() - began_s:.0f} s after it was mended")


def test_a_wall_that_closes_refuses_what_is_new_and_leaves_what_runs(steady: Story) -> None:
    kubectl = steady.cluster.kubectl
    uploaded(steady.origin, WALLED)
    wall = {"spec": {"origins": {"allow": [{"originRef": {"name": "s3"}, "match": "models/elsewhere/*"}]}}}
    kubectl("patch", "cachepolicy", "default", "--type=merge", "-p", json.dumps(wall))

    def opened() -> None:
        kubectl("patch", "cachepolicy", "default", "--type=json", "-p", '[{"op": "remove", "path": "/spec/origins"}]')

    try:
        kubectl("apply", "-f", "-", stdin=deployment("outside", ref=WALLED))
        steady.told(lambda: steady.pods("outside"), "the pod")
        refused(steady, "outside", "CachePolicy default does not allow")
        kubectl("scale", "deployment/steady", "-n", "demo", "--replicas=2")
        steady.available("steady")
        assert [steady.answer(pod)["sums"] for pod in steady.pods("steady")] == [steady.sums] * 2, "its template has its own"
    finally:
        comes_back(steady, "outside", opened)
    steady.gone("outside")


def test_a_grant_that_is_taken_back_stops_new_mounts_of_the_guest_and_not_his_pods(steady: Story) -> None:
    kubectl = steady.cluster.kubectl
    sums = uploaded(steady.origin, SHARED)
    enabled = CliRunner().invoke(kubectl_prestage, ["enable", OWNERS, "--secret", "s3"]).output
    kubectl("apply", "--server-side", "-f", "-", stdin=enabled)
    kubectl("apply", "-f", "-", stdin=json.dumps({**secret(steady), "metadata": {"name": "s3", "namespace": OWNERS}}))
    kubectl("apply", "-f", "-", stdin=model("shared", OWNERS, SHARED))
    kubectl("apply", "-f", "-", stdin=json.dumps(GRANT))
    kubectl("apply", "-f", "-", stdin=deployment("guest", ref=f"ref:{OWNERS}/shared"))
    steady.available("guest")
    kubectl("delete", "stagedmodelgrant", "demo", "-n", OWNERS)
    time.sleep(KEPT_S)
    kubectl("scale", "deployment/guest", "-n", "demo", "--replicas=2")
    steady.told(lambda: len(steady.pods("guest")) == 2, "the second pod")
    refused(steady, "guest", "nothing lets demo/default have StagedModel owners/shared")
    assert steady.answer(steady.pods("guest")[0])["sums"] == sums, "who has it keeps it"
    comes_back(steady, "guest", lambda: kubectl("apply", "-f", "-", stdin=json.dumps(GRANT)))
    steady.gone("guest")


def test_a_secret_that_goes_stops_new_mounts_and_one_that_comes_lets_them_on(steady: Story) -> None:
    """`onRevoked: Evict`: what nobody has mounted is the first to go."""
    kubectl, kept = steady.cluster.kubectl, secret(steady)
    sums = uploaded(steady.origin, KEYED)
    kubectl("apply", "-f", "-", stdin=model("keyed", "demo", KEYED, onRevoked="Evict"))
    kubectl("apply", "-f", "-", stdin=deployment("keyed", ref="ref:keyed"))
    steady.available("keyed")
    found = artifact_of(steady, KEYED, "demo")
    name, digest = found["metadata"]["name"], found["spec"]["digest"]
    kubectl("delete", "secret", "s3", "-n", "demo")
    restored = {**kept, "metadata": {"name": "s3", "namespace": "demo"}}
    try:
        refused_since(steady, name, "ref:keyed")

        def state() -> str:
            [row] = json.loads(kubectl("get", "artifact", name, "-n", "demo", "-o", "json"))["status"]["access"]
            return str(row["state"])

        steady.told(lambda: state() == "Revoked", "the broker's look", timeout_s=90)
        time.sleep(KEPT_S)
        kubectl("scale", "deployment/keyed", "-n", "demo", "--replicas=2")
        steady.told(lambda: len(steady.pods("keyed")) == 2, "the second pod")
        refused(steady, "keyed", "may not read ref:keyed any more")
        assert steady.answer(steady.pods("keyed")[0])["sums"] == sums, "who has it keeps it"
        steady.gone("keyed")

        def action() -> str | None:
            listed = json.loads(kubectl("get", "nodecache", steady.node.name, "-o", "json"))["spec"]["artifacts"]
            return next((one["action"] for one in listed if one["digest"] == digest), None)

        steady.told(lambda: action() == "Release", "the plan lets go of it", timeout_s=90)
        assert steady.available("steady") < 10, "another Secret's, or none's, goes on"
    finally:
        kubectl("apply", "-f", "-", stdin=json.dumps(restored))
    kubectl("apply", "-f", "-", stdin=deployment("keyed", ref="ref:keyed"))
    comes_back(steady, "keyed", lambda: None)
    steady.gone("keyed")
