"""Hostile tenants against what is installed: attributes written by hand, tokens of their own at the broker, the node's ports."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from story import REF, Story, deployment

from cluster.installed import IMAGE

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server")]

ASKING = """
import json, ssl, sys, urllib.error, urllib.request
trusting = ssl._create_unverified_context()
own = open("/var/run/secrets/kubernetes.io/serviceaccount/token").read()
forged = own.rpartition(".")[0] + "." + "A" * 86
def ask(url, token=None, body=None, method=None):
    headers = {"Authorization": "Bearer " + token} if token else {}
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trusting if url.startswith("https") else None) as answer:
            return [answer.status, answer.read(300).decode(errors="replace")]
    except urllib.error.HTTPError as error:
        return [error.code, error.read(300).decode(errors="replace")]
    except OSError as error:
        return [0, str(error)]
tokens = {"none": None, "own": own, "forged": forged, "words": "system:node:node1"}
asked = json.loads(sys.argv[1])
print(json.dumps([[ask(url, tokens[token], body, method) for token in tokens] for url, body, method in asked]))
"""


@pytest.fixture(scope="module")
def tenant(story: Story) -> Iterator[dict[str, Any]]:
    """A pod of namespace demo with the token that every pod gets; what it serves is of no matter."""
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("tenant"))
    story.available("tenant")
    [pod] = story.pods("tenant")
    yield pod
    story.gone("tenant")


def asked(story: Story, pod: dict[str, Any], *questions: tuple[str, object, str]) -> list[list[tuple[int, str]]]:
    """From inside the pod: each question with no token, the pod's own, a forged one, and words."""
    words = ("exec", pod["metadata"]["name"], "-n", "demo", "--", "python3", "-c", ASKING, json.dumps(questions))
    said: list[list[tuple[int, str]]] = json.loads(story.cluster.kubectl(*words))
    return said


def test_the_broker_answers_no_pod_whatever_token_it_shows(story: Story, tenant: dict[str, Any]) -> None:
    address = story.installed.values()["broker"]["clusterIP"]
    [volume] = [one for one in story.pods("tenant")[0]["spec"]["volumes"] if "csi" in one]
    artifact = volume["csi"]["volumeAttributes"].get("artifact.prestage.dev/llama", "sha256:" + "a" * 64)
    template = {"uid": "u", "hash": "h"}
    bodies = {
        "manifest": {"artifact": artifact},
        "fetches": {"artifact": artifact, "paths": ["model.safetensors"]},
        "resolve": {"namespace": "demo", "template": template, "alias": "llama", "ref": REF},
        "mounts": {"pod": {"namespace": "demo", "name": "p", "uid": "u"}, "podToken": "x", "models": []},
    }
    answers = asked(story, tenant, *((f"https://{address}:8443/v1/{path}", body, "POST") for path, body in bodies.items()))
    assert [[status for status, _ in row] for row in answers] == [[403] * 4] * 4, answers
    assert "X-Amz" not in json.dumps(answers)


def test_a_node_shows_a_pod_its_metrics_and_nothing_else(story: Story, tenant: dict[str, Any]) -> None:
    found = json.loads(
        story.cluster.kubectl("get", "pods", "-n", "prestage", "-l", "app.kubernetes.io/component=node", "-o", "json")
    )
    [node] = found["items"]
    words = ("exec", node["metadata"]["name"], "-n", "prestage", "-c", "csi", "--")
    table = story.cluster.kubectl(*words, "/bin/busybox", "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [line.split() for line in table.splitlines() if ":" in line and "local_address" not in line]
    listening = {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    assert listening == {9464, 9465}
    at = f"http://{node['status']['podIP']}:9464"
    paths = ("v1/artifacts", "v1/stages", "v1/trees", "v1/blobs/x", "../etc/passwd")
    questions: list[tuple[str, object, str]] = [(f"{at}/{path}", None, "GET") for path in paths]
    questions += [(f"{at}/v1/stages", {"ref": REF}, "POST"), (f"{at}/healthz", None, "DELETE")]
    refused = asked(story, tenant, *questions)
    assert {status for row in refused for status, _ in row} <= {401, 403, 404, 405}, refused
    images = at.replace(":9464", ":9465")
    [[told, *_], [of_images, *_]] = asked(story, tenant, *((f"{one}/metrics", None, "GET") for one in (at, images)))
    assert (told[0], of_images[0]) == (200, 200)
    shown = ""
    for one in (at, images):
        with urllib.request.urlopen(f"{one}/metrics", timeout=10) as answer:
            shown += answer.read().decode()
    assert not [word for word in ("llama", "sha256:", '"demo"') if word in shown], "metrics name no tenant and no model"


def test_attributes_written_by_hand_open_nothing_that_is_not_the_namespaces_own(story: Story, tenant: dict[str, Any]) -> None:
    """In a namespace that did not opt in, where admission looks at nothing: the driver refuses, and the pod's Event says why."""
    kubectl = story.cluster.kubectl
    [artifact, *_] = json.loads(kubectl("get", "artifacts", "-n", "demo", "-o", "json"))["items"]
    attributes = {"model.prestage.dev/llama": REF, "artifact.prestage.dev/llama": artifact["spec"]["digest"]}
    kubectl("create", "namespace", "outside")
    account = "/api/v1/namespaces/outside/serviceaccounts/default"
    story.told(lambda: story.cluster.api.ask(account), "the namespace's account")
    kubectl("apply", "-f", "-", stdin=_pod("outside", attributes))

    def refused() -> bool:
        events = kubectl("get", "events", "-n", "outside", "--field-selector=involvedObject.name=thief", "-o", "json")
        return "PermissionDenied" in events and "namespace outside" in events

    story.told(refused, "the Event that says no")
    assert kubectl("get", "pod", "thief", "-n", "outside", "-o", "jsonpath={.status.phase}") == "Pending"
    kubectl("delete", "pod", "thief", "-n", "outside", "--timeout=60s")


def _pod(namespace: str, attributes: dict[str, str]) -> str:
    container = {"name": "c", "image": f"{IMAGE}:test", "imagePullPolicy": "Never", "command": ["sleep", "600"]}
    mounts = [{"name": "models", "mountPath": "/models", "readOnly": True}]
    volume = {"name": "models", "csi": {"driver": "prestage.dev", "readOnly": True, "volumeAttributes": attributes}}
    spec = {"containers": [{**container, "volumeMounts": mounts}], "volumes": [volume], "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "thief", "namespace": namespace}, "spec": spec})
