"""Which pods a change concerns: enough of them that nobody who may start warm is missed, and no more than that."""

from __future__ import annotations

from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st
from pods.objects import DIGEST, GATE, LLAMA, OTHER, artifact, node, node_cache, pod
from pods.worlds import drop, put, world

from prestage.control.gates.decision import Reason
from prestage.control.gates.loop import Gates
from prestage.control.gates.touched import Askers, Touched
from prestage.control.gates.world import World
from prestage.kube.mirror import Key
from prestage.kube.ports import Object, metadata_of
from prestage.kube.testing import FakeApi

HERE: Key = ("team-a", "p")
THERE: Key = ("team-a", "q")


def gated(name: str = "p", job: str = "5f8f0000-job", ref: str = LLAMA) -> dict[str, object]:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": job, "controller": True}
    return pod({"model.prestage.dev/llama": ref}, name=name, gpus=1, spec={"schedulingGates": [GATE]}, ownerReferences=[owner])


def bound(one: Object, where: str) -> dict[str, object]:
    spec = {name: value for name, value in cast("dict[str, object]", one["spec"]).items() if name != "schedulingGates"}
    return {**one, "spec": {**spec, "nodeName": where}}


def two_templates() -> tuple[World, Touched]:
    """`p` got DIGEST, `q` got OTHER."""
    there = world(node("a"), node("b"), artifact(), artifact(OTHER, uid="other"), gated(), gated("q", "other"))
    touched = there.touched()
    return there, touched


def test_what_a_node_says_of_an_artifact_concerns_the_pods_that_got_it() -> None:
    there, touched = two_templates()
    put(there, node_cache("a", {DIGEST: "Staging"}))
    assert touched.take() == {HERE}
    put(there, node_cache("a", {DIGEST: "Staging", OTHER: "Warm"}))
    assert touched.take() == {THERE}
    put(there, node_cache("a", {DIGEST: "Staging", OTHER: "Warm"}))
    assert touched.take() == set()
    assert not touched.is_set()
    drop(there, node_cache("a", {}))
    assert touched.take() == {HERE, THERE}


def test_a_record_concerns_the_pods_of_its_template_when_it_comes_and_when_it_goes() -> None:
    there = world(gated(), gated("q", "other"))
    touched = there.touched()
    put(there, artifact())
    assert touched.take() == {HERE}
    put(there, artifact(uid="other"))
    assert touched.take() == {HERE, THERE}
    drop(there, artifact(uid="other"))
    assert touched.take() == {THERE}
    put(there, node_cache("a", {DIGEST: "Warm"}))
    assert touched.take() == set()


def test_a_pod_that_was_seen_before_its_replica_set_is_looked_at_when_that_is_seen() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "uid-web-1", "controller": True}
    early = pod(name="p", gpus=1, ownerReferences=[owner], labels={"pod-template-hash": "1"})
    there = world(early, artifact(uid="web", revision="1"))
    touched = there.touched()
    put(there, node_cache("a", {DIGEST: "Warm"}))
    assert touched.take() == set(), "nobody can say yet whose it is"
    above = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web", "controller": True}
    head = {"name": "web-1", "namespace": "team-a", "ownerReferences": [above]}
    put(there, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": head, "spec": {}})
    assert touched.take() == {HERE}
    put(there, node_cache("a", {DIGEST: "Staging"}))
    assert touched.take() == {HERE}


def test_heartbeats_of_nodes_concern_nobody_and_other_nodes_everybody() -> None:
    there, touched = two_templates()
    beat = node("a")
    beat["status"] = {**cast("dict[str, object]", beat["status"]), "conditions": [{"type": "Ready", "status": "True"}]}
    put(there, beat)
    assert touched.take() == set()
    put(there, node("a", taints=[{"key": "x", "effect": "NoSchedule"}]))
    assert touched.take() is None
    put(there, node("c"))
    assert touched.take() is None


def test_room_that_is_left_concerns_those_that_want_what_is_there() -> None:
    there, touched = two_templates()
    put(there, node_cache("a", {DIGEST: "Warm"}), bound(gated("busy", "third"), "a"))
    touched.take()
    drop(there, bound(gated("busy", "third"), "a"))
    assert touched.take() == {("team-a", "busy"), HERE}


def test_all_outweigh_some_and_nothing_sets_nothing() -> None:
    touched = Touched()
    touched.add(frozenset())
    assert not touched.is_set()
    touched.add({HERE})
    touched.add(None)
    assert touched.is_set()
    assert touched.pods is None
    assert touched.take() is None
    assert touched.take() == set()


def test_a_pod_that_asks_otherwise_or_is_gone_is_found_where_it_asks_now() -> None:
    askers = Askers()
    first, second = ("t", "1", "a", "hf://o/m"), ("t", "2", "a", "hf://o/m")
    askers.put(HERE, [first])
    askers.put(HERE, [second])
    assert (askers.of([first]), askers.of([second])) == (set(), {HERE})
    askers.wait(HERE, "web-1")
    assert (askers.of([second]), askers.waiting_for(("team-a", "web-1"))) == (set(), {HERE})
    askers.drop(HERE)
    assert askers.waiting_for(("team-a", "web-1")) == set()


STATES = st.sampled_from(["Pending", "Staging", "Warm", "Failed"])
CHANGES = st.one_of(
    st.tuples(st.just("cache"), st.sampled_from("ab"), st.dictionaries(st.sampled_from([DIGEST, OTHER]), STATES)),
    st.tuples(st.just("uncache"), st.sampled_from("ab"), st.none()),
    st.tuples(st.just("node"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("record"), st.sampled_from([DIGEST, OTHER]), st.sampled_from(["x", "y"])),
    st.tuples(st.just("unrecord"), st.sampled_from([DIGEST, OTHER]), st.none()),
    st.tuples(st.just("gated"), st.sampled_from("pqr"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("bound"), st.sampled_from("pqr"), st.sampled_from("ab")),
    st.tuples(st.just("gone"), st.sampled_from("pqr"), st.none()),
)


def change(there: World, what: str, which: str, how: object) -> None:
    match what:
        case "cache":
            put(there, node_cache(which, cast("dict[str, str]", how)))
        case "uncache":
            drop(there, node_cache(which, {}))
        case "node":
            put(there, node(which, taints=[{"key": "x", "effect": "NoSchedule"}] if how else []))
        case "record":
            put(there, artifact(which, uid=str(how)))
        case "unrecord":
            drop(there, artifact(which))
        case "gated":
            put(there, gated(which, str(how)))
        case "bound":
            put(there, bound(gated(which, "x"), str(how)))
        case "gone":
            drop(there, gated(which))


def warm(there: World) -> set[Key]:
    """Gated pods that a look at all of them releases because they start warm."""
    steps = Gates(FakeApi(), there).steps()
    heads = [metadata_of(step.pod) for step in steps if step.verdict.reason is Reason.WARM_NODE]
    return {(str(head["namespace"]), str(head["name"])) for head in heads}


FULL = [("cache", "a", {DIGEST: "Warm"}), ("node", "a", False), ("record", DIGEST, "y"), ("gated", "p", "y"), ("gated", "q", "y")]
"""One place, and two that wait for it."""


@example([*FULL, ("gated", "p", "x")])
@example([*FULL, ("gone", "p", None)])
@given(st.lists(CHANGES, max_size=25))
def test_whoever_may_start_warm_after_a_change_is_concerned_by_it(changes: list[tuple[str, str, object]]) -> None:
    there = world(node("a", gpus=2), node("b", gpus=2), leader_age_s=0.0)
    touched = there.touched()
    for one in changes:
        before = warm(there)
        change(there, *one)
        pods = touched.take()
        assert pods is None or warm(there) - before <= pods
