"""`kubectl prestage nodes|models|status`: what is said of objects."""

from __future__ import annotations

import asyncio
import datetime

import msgspec
import pytest

from prestage.api import reading
from prestage.api.artifacts import Artifact
from prestage.api.models import StagedModel
from prestage.api.nodes import ImagesStatus, NodeCache
from prestage.api.values import API_VERSION
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi
from prestage.kubectl import models, nodes, status
from prestage.kubectl.asking import kinds

NOW = datetime.datetime(2027, 1, 15, 9, 0, tzinfo=datetime.UTC)
ONE, TWO = (f"sha256:{letter * 64}" for letter in "ab")


def cache(name: str, *held: dict[str, object], heartbeat: str = "2027-01-15T08:59:30Z", ready: str = "True") -> NodeCache:
    condition = {"type": "Ready", "status": ready, "reason": "Serving", "lastTransitionTime": "2027-01-15T08:00:00Z"}
    planned = [{"digest": one["digest"], "action": "Keep"} for one in held]
    return reading.read(
        NodeCache,
        {
            "kind": "NodeCache",
            "metadata": {"name": name},
            "spec": {"nodeUID": "u", "artifacts": planned},
            "status": {"used": "10Gi", "budget": "1Ti", "heartbeatAt": heartbeat, "artifacts": held, "conditions": [condition]},
        },
    )


def test_a_node_says_what_it_holds_and_how_much_room_it_has() -> None:
    [row] = nodes.rows(
        [cache("n1", {"digest": ONE, "state": "Warm"}, {"digest": TWO, "state": "Staging", "step": "Download"})], NOW
    )
    assert (row.ready, row.warm, row.staging, row.failed) == ("True", 1, 1, 0)
    assert (row.used, row.budget, row.heard) == ("10.7 GB", "1.1 TB", "30.0 s ago")


def test_a_node_that_stages_images_says_how_much_room_containerd_has() -> None:
    made = cache("n1", {"digest": ONE, "type": "Image", "state": "Warm"}, {"digest": TWO, "state": "Warm"})
    assert made.status is not None
    images = ImagesStatus(runtime="2.1.9", snapshotter="overlayfs", used=10**9, budget=8 * 10**9)
    [row] = nodes.rows([msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, images=images))], NOW)
    assert row.images == "1 warm, 1 GB of 8 GB"
    assert row.warm == 1, "of models"
    assert nodes.rows([made], NOW)[0].images is None
    moved = msgspec.structs.replace(made.status, images=msgspec.structs.replace(images, wasted=4 * 10**8))
    [row] = nodes.rows([msgspec.structs.replace(made, status=moved)], NOW)
    assert row.images == "1 warm, 1 GB of 8 GB, 400 MB wasted: their tags moved"
    remote = msgspec.structs.replace(images, snapshotter="soci", remote_snapshotters=["soci"], budget=None)
    [row] = nodes.rows([msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, images=remote))], NOW)
    assert row.images == "left to soci"


def test_a_failure_is_named() -> None:
    failed: dict[str, object] = {"digest": ONE, "state": "Failed", "errorClass": "Denied", "errorCode": "NoCredentials"}
    [row] = nodes.rows([cache("n1", failed)], NOW)
    assert (row.failed, row.message) == (1, "failed: NoCredentials")


def test_an_agent_that_is_silent_is_not_called_ready() -> None:
    [row] = nodes.rows([cache("n1", heartbeat="2027-01-15T08:50:00Z")], NOW)
    assert row.ready == "Unknown"
    assert "last heard 10 min" in row.message


def test_a_node_without_a_report_is_there() -> None:
    bare = reading.read(NodeCache, {"kind": "NodeCache", "metadata": {"name": "n2"}, "spec": {"nodeUID": "u"}})
    [row] = nodes.rows([bare], NOW)
    assert (row.ready, row.message) == ("Unknown", "its agent has not reported yet")
    assert row.used is None


def artifact(digest: str, *uses: tuple[str, str]) -> Artifact:
    templates = [{"uid": f"u{n}", "hash": "-", "alias": alias, "ref": ref} for n, (alias, ref) in enumerate(uses)]
    return reading.read(
        Artifact,
        {
            "kind": "Artifact",
            "metadata": {"name": digest.replace(":", "-"), "namespace": "team-a"},
            "spec": {"digest": digest, "files": 2, "size": 1500, "manifest": "H4sI"},
            "status": {"templates": templates},
        },
    )


def staged(name: str, state: dict[str, object] | None = None) -> StagedModel:
    spec = {"source": "hf://org/name", "revision": "main"}
    raw: dict[str, object] = {"kind": "StagedModel", "metadata": {"name": name, "namespace": "team-a"}, "spec": spec}
    return reading.read(StagedModel, raw | ({"status": state} if state else {}))


def test_models_are_staged_models_and_refs_of_annotations_each_once() -> None:
    uses = (("llama", "hf://org/name@main"), ("llama", "hf://org/name@main"), ("named", "ref:llama"))
    caches = [cache("n1", {"digest": ONE, "state": "Warm"}), cache("n2", {"digest": ONE, "state": "Pending"})]
    made = models.rows([staged("llama")], [artifact(ONE, *uses)], caches)
    assert [(row.kind, row.name, row.source) for row in made] == [
        ("Annotation", "llama", "hf://org/name@main"),
        ("StagedModel", "llama", "hf://org/name@main"),
    ]
    assert (made[0].warm, made[0].wanted, made[0].size) == (1, 2, "1.5 kB")
    assert made[1].message == "nobody has looked at it yet"


def test_an_image_is_named_as_pods_name_it() -> None:
    uses = ("image/arm64/00c0ffee", "oci://registry.example/vllm:0.33")
    [row] = models.rows([], [artifact(ONE, uses)], [cache("n1", {"digest": ONE, "type": "Image", "state": "Warm"})])
    assert (row.kind, row.name, row.source, row.warm) == ("Image", "registry.example/vllm:0.33", "linux/arm64", 1)


def test_who_may_not_see_nodes_sees_no_counts_rather_than_zeros() -> None:
    [row] = models.rows([], [artifact(ONE, ("llama", "hf://org/name@main"))], None)
    assert (row.warm, row.wanted, row.ready) == (None, None, "-")


def test_a_staged_models_own_status_counts() -> None:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Denied",
        "message": "no credentials",
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }
    state = {
        "artifact": {"digest": TWO, "files": 1, "size": 7},
        "nodes": {"warm": 3, "staging": 1, "wanted": 4},
        "conditions": [ready],
    }
    [row] = models.rows([staged("llama", state)], [], None)
    assert (row.warm, row.wanted, row.ready, row.message) == (3, 4, "False", "no credentials")


def pod(name: str, *, gated: bool = False, warm: str | None = None, by_hand: bool = False) -> dict[str, object]:
    attributes = {"model.prestage.dev/b": "ref:b"} if by_hand else {}
    conditions = [{"type": "prestage.dev/Warm", "status": warm, "reason": "Staging", "message": "41 %"}] if warm else []
    return {
        "metadata": {"name": name, "namespace": "team-a", "annotations": {} if by_hand else {"model.prestage.dev/a": "hf://o/n"}},
        "spec": {
            "volumes": [
                {"name": "m", "csi": {"driver": "prestage.dev", "volumeAttributes": attributes}},
                {"name": "t", "emptyDir": {}},
            ],
            "schedulingGates": [{"name": "prestage.dev/warm"}] if gated else [],
            **({} if gated else {"nodeName": "n1"}),
        },
        "status": {"phase": "Pending", "conditions": conditions},
    }


def test_waiting_pods_come_first_and_say_for_what() -> None:
    other = {"metadata": {"name": "x"}, "spec": {}, "status": {}}
    made = status.pod_rows([pod("warm", warm="True"), other, pod("waits", gated=True, warm="False"), pod("hand", by_hand=True)])
    assert [(row.pod, row.node, row.models, row.warm, row.message) for row in made] == [
        ("hand", "n1", "b", "Unknown", ""),
        ("waits", "gated", "a", "False", "41 %"),
        ("warm", "n1", "a", "True", "41 %"),
    ]


@pytest.mark.parametrize(("ready", "wanted", "up"), [(1, 2, True), (0, 2, False)])
def test_a_deployment_is_up_with_one_of_its_pods(ready: int, wanted: int, up: bool) -> None:
    deployment = {"metadata": {"name": "prestage-broker"}, "spec": {"replicas": wanted}, "status": {"availableReplicas": ready}}
    [part] = status.parts([deployment], [])
    assert part.is_up is up


def test_a_daemonset_is_up_on_every_node_or_not_at_all() -> None:
    daemons = {"metadata": {"name": "prestage-node"}, "status": {"numberReady": 1, "desiredNumberScheduled": 2}}
    [part] = status.parts([], [daemons])
    assert not part.is_up


def test_what_a_newer_cluster_wrote_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    def written(name: str, action: str) -> dict[str, object]:
        spec = {"nodeUID": "u", "artifacts": [{"digest": ONE, "action": action}]}
        return {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": name}, "spec": spec}

    async def asked() -> list[NodeCache] | None:
        api = FakeApi()
        for one in (written("n1", "Keep"), written("n2", "Thaw")):
            await api.create(NODE_CACHES, one)
        return await kinds(api, NODE_CACHES, NodeCache)

    found = asyncio.run(asked())
    assert found is not None
    assert [row.name for row in nodes.rows(found, NOW)] == ["n1"]
    said = capsys.readouterr().err
    assert said.startswith("NodeCache n2: this plugin cannot read it (spec.artifacts[0].action: ")
    assert said.endswith("); update it\n")
