"""An image on the node before its pod: a StagingSchedule names it, the kubelet's own pull finds it, and nobody else gets it."""

from __future__ import annotations

import datetime
import json
import random
from typing import Any

import pytest
from layers import Made, Tar, image
from story import REF, Story

from cluster.images import BUSYBOX
from prestage.api.annotations import WARM_GATE
from servers.registry import PASSWORD, Registry
from servers.toxiproxy import Route

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server", "docker-registry")]


def engine(seed: int = 8, *, weight_bytes: int = 6 << 20) -> Made:
    """It runs, and has something to move."""
    system = Tar().folder("bin").file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755).end()
    weight = Tar().folder("opt").file("opt/weight", random.Random(seed).randbytes(weight_bytes)).end()
    return image([(system, "gzip"), (weight, "gzip")])


def schedule(name: str) -> str:
    spec = {
        "artifacts": [{"name": "engine", "type": "Image", "image": name, "pullSecretRef": {"name": "regcred"}}],
        "nodes": {"selector": {}},
        "windows": [{"name": "always"}],
    }
    metadata = {"name": "engine", "namespace": "demo"}
    return json.dumps({"apiVersion": "prestage.dev/v1alpha1", "kind": "StagingSchedule", "metadata": metadata, "spec": spec})


def pod(name: str, reference: str, *secrets: str) -> str:
    container = {"name": "c", "image": reference, "command": ["/bin/busybox", "sleep", "600"]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": one} for one in secrets]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "demo"}, "spec": spec})


def seen(story: Story, *what: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(story.cluster.kubectl("get", *what, "-o", "json"))
    return said


def cache(story: Story) -> dict[str, Any]:
    return seen(story, "nodecache", story.node.name)


def images_of(story: Story) -> list[str]:
    """States of the node's images."""
    return [one["state"] for one in cache(story)["status"].get("artifacts", []) if one.get("type") == "Image"]


def why_not(story: Story, name: str) -> str:
    """Why a pod's container waits."""
    [status, *_] = seen(story, "pod", name, "-n", "demo")["status"].get("containerStatuses") or [{}]
    return str(status.get("state", {}).get("waiting", {}).get("message", ""))


def test_a_scheduled_image_is_there_before_its_pod_and_for_nobody_without_the_secret(story: Story, registry: Registry) -> None:
    kubectl, made = story.cluster.kubectl, engine()
    name = registry.push("team/engine", "v1", made)
    kubectl("apply", "-f", "-", stdin=schedule(name))
    try:
        story.told(lambda: images_of(story) == ["Warm"], "the image warm on its node", timeout_s=90)
    except Exception as exc:
        said = kubectl("get", "stagingschedule,nodecache", "-A", "-o", "yaml")
        raise AssertionError(f"{said}\n{story.explained('none')}") from exc
    status = cache(story)["status"]
    assert status["images"]["snapshotter"] == "overlayfs"
    assert status["storeID"], "the agent's own part is beside it"
    assert not registry.asked(client="containerd"), "nobody has pulled"

    kubectl("apply", "-f", "-", stdin=pod("uninvited", name))
    story.told(
        lambda: "401" in why_not(story, "uninvited") or "authoriz" in why_not(story, "uninvited"), "no pull without the secret"
    )
    kubectl("delete", "pod", "uninvited", "-n", "demo", "--timeout=60s")
    assert not registry.asked(client="containerd"), "every request of its was refused"

    kubectl("apply", "-f", "-", stdin=pod("invited", name, "regcred"))
    kubectl("wait", "pod", "invited", "-n", "demo", "--for=condition=Ready", "--timeout=60s")
    asked = registry.asked(client="containerd")
    assert [(one.method, one.is_blob) for one in asked] == [("HEAD", False), ("GET", False)]
    assert sum(one.bytes for one in asked if one.method == "GET") == len(made.top)
    story.told(lambda: _ready(story) == "Warm", "the schedule says so")

    told = json.dumps([cache(story), story.installed.words("daemonset/prestage-node")])
    told += story.installed.words("deployment/prestage-broker") + story.installed.words("deployment/prestage-planner")
    secrets = [made.digest, *made.layers, PASSWORD]
    assert not [one for one in secrets if one in told], "OCI digests of a private image are nobody's"
    assert registry.host not in json.dumps(cache(story))
    kubectl("delete", "pod", "invited", "-n", "demo", "--timeout=60s")
    kubectl("delete", "stagingschedule", "engine", "-n", "demo")


def _ready(story: Story) -> str:
    conditions = seen(story, "stagingschedule", "engine", "-n", "demo").get("status", {}).get("conditions", [])
    return next((one["reason"] for one in conditions if one["type"] == "Ready"), "")


def sleeping(name: str, reference: str, *, replicas: int = 0) -> str:
    """A Deployment (of no pods) that says when it will have one: with a model, and an image of its own."""
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    when = {"ready-schedule": f"{later.minute} {later.hour} * * *", "duration": "1h", "replicas": "1"}
    container = {"name": "c", "image": reference, "command": ["/bin/busybox", "sleep", "600"]}
    annotations = {"model.prestage.dev/llama": REF, "prestage.dev/credentials": "s3"}
    pods = {"containers": [container], "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": "regcred"}]}
    template = {"metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": pods}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "namespace": "demo", "annotations": {f"prestage.dev/{key}": text for key, text in when.items()}}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def test_a_workload_that_sleeps_has_its_image_and_its_model_before_its_first_pod(story: Story, registry: Registry) -> None:
    kubectl, made = story.cluster.kubectl, engine(seed=9)
    name = registry.push("team/sleeper", "v1", made)
    already, asked = images_of(story).count("Warm"), len(registry.asked(client="containerd"))
    kubectl("apply", "-f", "-", stdin=sleeping("sleeper", name))
    story.told(lambda: images_of(story).count("Warm") > already, "the image of what sleeps on its node", timeout_s=90)
    assert story.pods("sleeper") == []
    kubectl("scale", "deployment", "sleeper", "-n", "demo", "--replicas=1")
    story.available("sleeper")
    kubectl("wait", "pod", "-l", "app=sleeper", "-n", "demo", "--for=condition=prestage.dev/Warm", "--timeout=60s")
    pulled = registry.asked(client="containerd")[asked:]
    assert [(one.method, one.is_blob) for one in pulled] == [("HEAD", False), ("GET", False)]
    story.gone("sleeper")


def gates_of(story: Story, app: str) -> list[str]:
    """Of its only pod, once there is one."""
    [made] = story.pods(app) or [{"spec": {"schedulingGates": [{"name": "not made yet"}]}}]
    return [one["name"] for one in made["spec"].get("schedulingGates", [])]


def test_a_pod_whose_model_is_there_is_held_while_its_image_comes(story: Story, registry: Registry, to_registry: Route) -> None:
    """The registry is slow, and has had images of that repository for this namespace: somebody is at it, so it is waited for."""
    kubectl, app = story.cluster.kubectl, "held"
    warm = images_of(story).count("Warm")
    kubectl("apply", "-f", "-", stdin=sleeping(app, registry.push("team/held", "v1", engine(seed=10))))
    story.told(lambda: images_of(story).count("Warm") > warm and set(story.states()) == {"Warm"}, "model and image", timeout_s=90)
    name, asked = (
        registry.push("team/held", "v2", made := engine(seed=11, weight_bytes=24 << 20)),
        len(registry.asked(client="containerd")),
    )
    slow = to_registry.add("bandwidth", rate=400)  # KB/s for each connection
    kubectl("apply", "-f", "-", stdin=sleeping(app, name, replicas=1))
    story.told(lambda: gates_of(story, app) == [WARM_GATE] and "Staging" in images_of(story), "held for its image")
    assert {one["state"] for one in cache(story)["status"]["artifacts"] if one.get("type") != "Image"} == {"Warm"}
    [pod_] = story.pods(app)
    story.told(lambda: any(reason == "Staging" for reason, _ in story.events(pod_["metadata"]["name"])), "an Event says so")

    def arrived() -> bool:
        gates, states = gates_of(story, app), images_of(story)
        assert gates == [WARM_GATE] or "Staging" not in states, "released before its image was there"
        return "Staging" not in states

    story.told(arrived, "its image", timeout_s=120)
    to_registry.remove(slow)
    story.available(app)
    kubectl("wait", "pod", "-l", f"app={app}", "-n", "demo", "--for=condition=prestage.dev/Warm", "--timeout=60s")
    pulled = registry.asked(client="containerd")[asked:]
    assert [(one.method, one.is_blob) for one in pulled] == [("HEAD", False), ("GET", False)], "not a byte of a layer"
    assert sum(one.bytes for one in pulled if one.method == "GET") == len(made.top)
    story.gone(app)
