"""From what the mirrors hold to a Situation: fits, room, warm, when, since when."""

from __future__ import annotations

import datetime

from pods.objects import DIGEST, JOB, KUEUE, LLAMA, NOW, OTHER, artifact, lease, node, node_cache, pod
from pods.worlds import Clock, drop, put, world

from prestage.api.annotations import parse
from prestage.control.admission.mistakes import models_of
from prestage.control.gates.decision import Decision, Reason, decide
from prestage.control.gates.looking import Look
from prestage.control.gates.preference import place
from prestage.control.gates.situation import Surroundings, surroundings
from prestage.control.gates.world import World
from prestage.control.podspec import annotations_of, part
from prestage.kube.ports import Object


def seen(there: World, asked: Object, *, waited_s: float = 0.0, assumed: dict[str, list[Object]] | None = None) -> Surroundings:
    request = parse(annotations_of(asked))
    return surroundings(asked, request, models_of(asked, request), look=Look(there, assumed), waited_s=waited_s)


def bound(name: str, where: str) -> dict[str, object]:
    made = pod({}, name=name, gpus=1)
    return {**made, "spec": {**made["spec"], "nodeName": where}}  # type: ignore[dict-item]


def test_a_warm_node_with_room_is_preferred_and_nothing_is_gated() -> None:
    there = world(node("a"), node("b"), node_cache("a", {DIGEST: "Warm"}), node_cache("b", {DIGEST: "Staging"}), artifact())
    got = seen(there, pod(gpus=1))
    assert decide(got.situation).reason is Reason.WARM_NODE
    assert (got.warm, got.places) == (("a",), (place(node("a")),))
    assert got.known.artifacts == {("llama", LLAMA): DIGEST}


def test_a_warm_node_that_is_full_stays_preferred_but_a_cold_one_with_room_is_waited_for() -> None:
    there = world(
        node("a"),
        node("b"),
        bound("busy", "a"),
        node_cache("a", {DIGEST: "Warm"}),
        node_cache("b", {DIGEST: "Staging"}),
        artifact(),
    )
    got = seen(there, pod(gpus=1))
    assert decide(got.situation).reason is Reason.READY_SOON
    assert got.situation.ready_in_s == 10.0, "1 GB at 100 MB/s"
    assert got.warm == ()
    assert got.places == (place(node("a")),)
    drop(there, bound("busy", "a"))
    assert decide(seen(there, pod(gpus=1)).situation).reason is Reason.WARM_NODE


def test_no_node_fits_while_the_pool_is_at_zero_or_tainted() -> None:
    tainted = node("a", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    there = world(tainted, node_cache("a", {}), artifact())
    assert decide(seen(there, pod(gpus=1)).situation).reason is Reason.NO_NODE_FITS
    assert decide(seen(there, pod(gpus=1, spec={"tolerations": [{"operator": "Exists"}]})).situation).decision is Decision.GATE
    assert decide(seen(world(node("a", gpus=0), artifact()), pod(gpus=1)).situation).reason is Reason.NO_NODE_FITS


def test_what_was_released_a_moment_ago_takes_room() -> None:
    there = world(node("a", gpus=1), node_cache("a", {DIGEST: "Warm"}), artifact())
    got = seen(there, pod(gpus=1), assumed={"a": [pod(gpus=1, name="first")]})
    assert decide(got.situation).reason is Reason.NO_ROOM


def test_a_stage_is_counted_from_when_it_was_first_seen_and_behind_what_is_staged_already() -> None:
    clock = Clock()
    there = world(node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(), clock=clock)
    clock.at_s += 4
    assert seen(there, pod(gpus=1)).situation.ready_in_s == 6.0
    put(there, node_cache("a", {DIGEST: "Staging", OTHER: "Pending"}), artifact(OTHER, size=500_000_000, alias="x", ref="ref:x"))
    assert seen(there, pod(gpus=1)).situation.ready_in_s == 11.0
    clock.at_s += 100
    assert seen(there, pod(gpus=1)).situation.ready_in_s == 5.0, "never less than what stands before it"


def test_a_failed_stage_and_an_unknown_size_are_states_of_their_own() -> None:
    there = world(node("a"), node_cache("a", {DIGEST: "Failed"}), artifact())
    assert decide(seen(there, pod(gpus=1)).situation).reason is Reason.CANNOT_BE_WARM
    there = world(node("a"), node_cache("a", {}), artifact(alias="other"))
    assert decide(seen(there, pod(gpus=1)).situation).reason is Reason.RESOLVING
    assert decide(seen(there, pod(gpus=1), waited_s=11.0).situation).reason is Reason.UNKNOWN
    assert decide(seen(world(node("a"), artifact()), pod(gpus=1)).situation).reason is Reason.UNKNOWN, "a node without NodeCache"


def test_a_record_of_another_namespace_counts_only_for_a_staged_model_of_that_namespace() -> None:
    foreign = artifact(ref="ref:team-b/support")
    foreign["metadata"] = {"name": "sha256-x", "namespace": "team-b"}
    there = world(foreign)
    asked = pod({"model.prestage.dev/llama": "ref:team-b/support"})
    assert seen(there, asked).known.artifacts == {("llama", "ref:team-b/support"): DIGEST}
    stolen = artifact()
    stolen["metadata"] = {"name": "sha256-x", "namespace": "team-b"}
    assert seen(world(stolen), pod()).known.artifacts == {}


def test_a_record_goes_with_its_artifact() -> None:
    there = world(artifact())
    assert seen(there, pod()).known.complete
    put(there, artifact(uid="another"))
    assert not seen(there, pod()).known.complete
    put(there, artifact())
    assert there.has_artifact("team-a", DIGEST)
    assert not there.has_artifact("team-b", DIGEST)
    drop(there, artifact())
    assert not seen(there, pod()).known.complete
    assert not there.has_artifact("team-a", DIGEST)


def rollout(begun_s_ago: float, reason: str = "ReplicaSetUpdated") -> list[Object]:
    updated = (NOW - datetime.timedelta(seconds=begun_s_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": updated}
    above = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat", "uid": JOB, "controller": True}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": "team-a", "uid": JOB},
        "spec": {"progressDeadlineSeconds": 300},
        "status": {"conditions": [condition]},
    }
    below = {"name": "chat-1", "namespace": "team-a", "uid": "rs", "ownerReferences": [above]}
    return [deployment, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": below, "spec": {}}]


def test_a_rollout_near_its_deadline_is_not_held_up() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-1", "uid": "rs", "controller": True}
    asked = pod(gpus=1, ownerReferences=[owner], labels={"pod-template-hash": "h1"})
    around = [node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(revision="h1")]
    got = {}
    for begun in (10, 250):
        there = world(*around, *rollout(begun))
        got[begun] = seen(there, asked)
    assert (got[10].situation.rollout_left_s, decide(got[10].situation).reason) == (290.0, Reason.READY_SOON)
    assert (got[250].situation.rollout_left_s, decide(got[250].situation).reason) == (50.0, Reason.ROLLOUT_DUE)
    assert seen(world(*around, *rollout(250, "NewReplicaSetAvailable")), asked).situation.rollout_left_s is None


def test_other_gates_and_the_lease_are_seen() -> None:
    there = world(node("a"), leader_age_s=16.0)
    got = seen(there, pod(spec={"schedulingGates": [KUEUE, {"name": "prestage.dev/warm"}]}))
    assert got.situation.other_gates
    assert got.situation.lease_age_s == 16.0
    assert seen(world(leader_age_s=None), pod()).situation.lease_age_s is None


def test_a_label_that_is_another_nodes_names_no_place() -> None:
    forged = node("a")
    forged["metadata"] = {**forged["metadata"], "labels": {"prestage.dev/place": place(node("b"))}}  # type: ignore[dict-item]
    there = world(forged, node_cache("a", {DIGEST: "Warm"}), artifact())
    assert seen(there, pod(gpus=1)).places == ()


def test_the_lease_is_judged_by_our_own_clock_once_a_renewal_was_seen() -> None:
    clock = Clock()
    there = world(leader_age_s=500.0, clock=clock)
    assert there.lease_age_s() == 500.0, "at first there is only the lease's word"
    put(there, lease(-3600))
    assert there.lease_age_s() == 0.0, "its clock is an hour ahead of ours"
    clock.at_s += 16
    assert there.lease_age_s() == 16.0
    let_go = lease(0)
    let_go["spec"] = {**part(let_go, "spec"), "holderIdentity": ""}
    put(there, let_go)
    assert there.lease_age_s() == 16.0, "letting go is no sign of life"
    put(there, lease(0))
    assert there.lease_age_s() == 0.0
    drop(there, lease(0))
    assert there.lease_age_s() is None
