"""The API server away while pods start and stop; a pod deleted while its model comes; admission away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nodes import Driver
from story import NEXT, Story, deployment

from cluster.network import run

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server")]

AWAY_S = float(os.environ.get("PRESTAGE_API_AWAY_S", "6"))
"""How long the API server is away; `make rare-days` says 60."""
SOCKET = "/var/lib/kubelet/plugins/prestage.dev/csi.sock"


@pytest.fixture(scope="module")
def serving(story: Story) -> Iterator[Story]:
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("serving", replicas=2))
    story.available("serving")
    yield story
    story.gone("serving")


@contextmanager
def without_api(story: Story) -> Iterator[None]:
    story.cluster.api.down()
    try:
        yield
    finally:
        story.cluster.api.up()


def publish_again(story: Story, pod: dict[str, Any]) -> None:
    """As a kubelet that lost its memory asks: the same pod and target; without a token, for there is nobody to review it."""
    meta, uid = pod["metadata"], pod["metadata"]["uid"]
    [volume] = [one for one in pod["spec"]["volumes"] if "csi" in one]
    folder = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{volume['name']}"
    handle = json.loads(story.node.path(f"{folder}/vol_data.json").read_text())["volumeHandle"]
    about = {"pod.name": meta["name"], "pod.namespace": "demo", "pod.uid": uid, "serviceAccount.name": "default"}
    context = {f"csi.storage.k8s.io/{key}": value for key, value in {**about, "ephemeral": "true"}.items()}
    driver = Driver(story.node.path(SOCKET))
    try:
        driver.publish(Path(folder) / "mount", context | volume["csi"]["volumeAttributes"], volume=handle)
    finally:
        driver.close()


def test_pods_start_and_stop_through_an_api_server_that_is_away(serving: Story) -> None:
    story, kubectl = serving, serving.cluster.kubectl
    leaving, staying = story.pods("serving")
    kubectl("scale", "deployment/serving", "-n", "demo", "--replicas=3")
    kubectl("delete", "pod", leaving["metadata"]["name"], "-n", "demo", "--wait=false")
    with without_api(story):
        ends_s = time.monotonic() + AWAY_S
        publish_again(story, staying)
        asked = 0
        while time.monotonic() < ends_s or not asked:
            assert story.answer(staying)["sums"] == story.sums
            asked += 1
            time.sleep(0.5)
    story.available("serving")
    kubectl("wait", "pod", leaving["metadata"]["name"], "-n", "demo", "--for=delete", "--timeout=60s")
    # a ReplicaSet that did not hear of a pod which it made makes another, and then deletes one
    story.told(lambda: len(story.pods("serving")) == 3, "three pods")
    after = story.pods("serving")
    assert staying["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in after}
    assert [story.answer(pod)["sums"] for pod in after] == [story.sums] * 3
    assert all(status["restartCount"] == 0 for pod in after for status in pod["status"]["containerStatuses"])
    story.installed.all_ready()


def test_a_pod_deleted_while_its_model_comes_ends_at_once_and_the_next_one_goes_on_from_there(serving: Story) -> None:
    story, kubectl = serving, serving.cluster.kubectl
    trees = story.trees()
    slow = story.wire.add("bandwidth", rate=400)  # KB/s: two minutes
    try:
        kubectl("apply", "-f", "-", stdin=deployment("leaving", ref=NEXT, wait="Mount"))
        story.told(lambda: any("Staging" in said for said in story.states()), "the node stages it")
        story.gone("leaving", timeout_s=60)  # a pod that waits for its files ends when it is told to
    finally:
        story.wire.remove(slow)
    assert story.trees() == trees
    kubectl("apply", "-f", "-", stdin=deployment("next", ref=NEXT))
    story.available("next")
    [pod] = story.pods("next")
    assert story.answer(pod)["sums"] == story.next_sums
    story.gone("next")


def test_pods_get_their_models_while_admission_is_away(serving: Story) -> None:
    story, kubectl = serving, serving.cluster.kubectl
    kubectl("scale", "deployment/prestage-admission", "-n", "prestage", "--replicas=0")
    kubectl("wait", "pod", "-n", "prestage", "-l", "app.kubernetes.io/component=admission", "--for=delete", "--timeout=60s")
    try:
        kubectl("apply", "-f", "-", stdin=deployment("alone"))
        story.available("alone", timeout_s=60)
        [pod] = story.pods("alone")
        assert story.answer(pod)["sums"] == story.sums
        [volume] = [one for one in pod["spec"]["volumes"] if "csi" in one]
        assert not [key for key in volume["csi"]["volumeAttributes"] if key.startswith("artifact.")], "nobody was there to say it"
    finally:
        kubectl("scale", "deployment/prestage-admission", "-n", "prestage", "--replicas=1")
    story.installed.ready("deployment/prestage-admission")
    story.gone("alone")


def test_nothing_of_it_is_left_on_the_node(serving: Story) -> None:
    serving.gone("serving")
    assert "kubernetes.io~csi" not in run(*serving.node.enter("/bin/cat", "/proc/self/mountinfo"))
    assert serving.trees() == []
