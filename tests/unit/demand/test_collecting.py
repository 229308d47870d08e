"""From what runs and waits to demand and questions."""

from __future__ import annotations

import copy
from typing import cast

import pytest
from planning.objects import (
    REF,
    Mirrored,
    artifact,
    digest,
    line,
    namespace,
    node,
    pod,
    replica_set,
    staged_model,
    template,
)

from prestage.control.demand.collecting import Collected, Collector
from prestage.control.demand.records import Known, Line, Question
from prestage.kube.ports import Object
from prestage.planner.demands import Demand, Trust

SET = ("ReplicaSet", "web-abc")
SEEN = artifact("a", line())


def collected(*objects: Object, answers: dict[Line, Known] | None = None) -> Collected:
    return Collector().collect(Mirrored(namespace(), node("n1"), node("n2"), *objects), answers)


def by_trust(found: Collected) -> dict[Trust, Demand]:
    return {demand.trust: demand for demand in found.demands}


def test_a_bound_pod_is_wanted_on_its_node_and_its_template_stands() -> None:
    found = by_trust(collected(replica_set(), pod(owner=SET, on="n1"), SEEN))
    assert found.keys() == {Trust.BOUND, Trust.STANDING}
    bound = found[Trust.BOUND]
    assert (bound.artifact, bound.size_bytes, bound.namespace, bound.at) == (digest("a"), 1000, "team", {"n1": 1})
    assert found[Trust.STANDING].feasible == {"n1", "n2"}


@pytest.mark.parametrize("gates", [(), ("prestage.dev/warm",)])
def test_pending_and_gated_pods_wait_for_a_node_that_fits_now(gates: tuple[str, ...]) -> None:
    pods = [pod(f"p{number}", owner=SET, gates=gates) for number in range(3)]
    busy = pod("busy", on="n2", phase="Running", made={**template(gpus=3), "annotations": {}})
    waiting = by_trust(collected(replica_set(), SEEN, busy, *pods))[Trust.WAITING]
    assert waiting.count == 3
    assert waiting.at == {"n1": 4, "n2": 1}


def test_a_pod_that_others_gate_is_not_staged_for() -> None:
    one = pod(owner=SET, gates=("kueue.x-k8s.io/admission", "prestage.dev/warm"))
    assert by_trust(collected(replica_set(), SEEN, one)).keys() == {Trust.STANDING}


def test_only_pods_that_have_not_begun_keep_gpus_idle() -> None:
    pods = [
        pod("p1", owner=SET, on="n1", made=template(gpus=2)),
        pod("p2", owner=SET, on="n1", phase="Running", made=template(gpus=2)),
    ]
    bound = by_trust(collected(replica_set(made=template(gpus=2)), SEEN, *pods))[Trust.BOUND]
    assert (bound.gpus, bound.at) == (2, {"n1": 2})


def test_a_pod_that_ended_or_goes_before_it_began_wants_nothing_and_one_that_goes_while_it_runs_does() -> None:
    gone = [
        pod("p1", owner=SET, on="n1", phase="Succeeded"),
        pod("p2", owner=SET, on="n1", deletionTimestamp="2026-01-01T00:00:00Z"),
    ]
    assert Trust.BOUND not in by_trust(collected(replica_set(), SEEN, *gone))
    going = pod("p3", owner=SET, on="n1", phase="Running", deletionTimestamp="2026-01-01T00:00:00Z")
    assert Trust.BOUND in by_trust(collected(replica_set(), SEEN, going))


def test_namespaces_that_are_not_in_are_left_alone() -> None:
    found = Collector().collect(Mirrored(namespace(enabled=False), node("n1"), replica_set(), pod(owner=SET, on="n1"), SEEN))
    assert (found.demands, found.questions) == ((), ())


def test_what_no_record_names_is_a_question_with_account_and_credentials_and_no_demand() -> None:
    said = template(serviceAccountName="server")
    said["annotations"] = {**cast("dict[str, str]", said["annotations"]), "prestage.dev/credentials": "hf-token"}
    found = collected(replica_set(made=said), pod(owner=SET, made=said))
    assert found.demands == ()
    assert found.questions == (Question("team", line(), "server", "hf-token"),)


def test_what_the_broker_answered_is_demand_before_its_artifact_is_seen() -> None:
    known = Known(digest("a"), 7, "team")
    found = collected(replica_set(), pod(owner=SET, on="n1"), answers={line(): known})
    assert by_trust(found)[Trust.BOUND].size_bytes == 7
    assert found.questions == ()
    assert line() not in found.recorded


def test_models_of_one_pod_are_wanted_beside_each_other() -> None:
    said = template(models={"llama": REF, "judge": "hf://org/judge@main"})
    both = {one.line: Known(digest(one.line.alias), size, "team") for one, size in zip(_asked(said), (7, 9), strict=True)}
    found = collected(replica_set(made=said), pod(owner=SET, on="n1", made=said), answers=both)
    beside = {demand.artifact: demand.beside for demand in found.demands if demand.trust is Trust.BOUND}
    sizes = {known.artifact: known.size_bytes for known in both.values()}
    assert beside == {one: {other: sizes[other] for other in sizes if other != one} for one in sizes}
    assert by_trust(collected(replica_set(), pod(owner=SET, on="n1"), SEEN))[Trust.BOUND].beside == {}


def _asked(made: dict[str, object]) -> tuple[Question, ...]:
    return collected(replica_set(made=made), pod(owner=SET, on="n1", made=made)).questions


def test_a_rollout_wants_old_and_new_and_each_template_has_its_own_revision() -> None:
    old, new = replica_set("web-abc"), replica_set("web-def", revision="def", made=template(ref="hf://org/model@v2"))
    renewed = line(revision="def", ref="hf://org/model@v2")
    pods = [pod("p1", owner=SET, on="n1", phase="Running")]
    pods.append(pod("p2", owner=("ReplicaSet", "web-def"), revision="def", made=template(ref="hf://org/model@v2")))
    found = collected(old, new, SEEN, artifact("b", renewed), *pods)
    assert {(demand.trust, demand.artifact) for demand in found.demands} == {
        (Trust.BOUND, digest("a")),
        (Trust.STANDING, digest("a")),
        (Trust.WAITING, digest("b")),
        (Trust.STANDING, digest("b")),
    }


def test_a_template_stands_while_it_is_to_have_replicas_though_no_pod_is_there() -> None:
    assert by_trust(collected(replica_set(replicas=2), SEEN)).keys() == {Trust.STANDING}
    assert collected(replica_set(replicas=0), SEEN).demands == ()


def test_a_stateful_sets_pods_and_template_are_one_line() -> None:
    said = template()
    inner = {"metadata": {"annotations": said["annotations"]}, "spec": said["spec"]}
    sts: Object = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "team", "uid": "web-uid", "resourceVersion": "1"},
        "spec": {"replicas": 1, "template": inner},
        "status": {"updateRevision": "web-77"},
    }
    found = collected(sts, pod(owner=("StatefulSet", "web"), revision="web-77", on="n1"), artifact("a", line(revision="web-77")))
    assert by_trust(found).keys() == {Trust.BOUND, Trust.STANDING}
    assert len(found.demands) == 2


def test_daemon_pods_that_each_need_their_node_are_each_waited_for_there() -> None:
    def pinned(name: str) -> dict[str, object]:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        return template(affinity={"nodeAffinity": required})

    pods = [pod(f"d-{name}", owner=("DaemonSet", "web"), made=pinned(name)) for name in ("n1", "n2")]
    found = [demand for demand in collected(SEEN, *pods).demands if demand.trust is Trust.WAITING]
    assert sorted(tuple(demand.at) for demand in found) == [("n1",), ("n2",)]
    assert len({demand.id for demand in found}) == 2


def test_a_volume_that_was_written_by_hand_counts_as_the_annotation_does() -> None:
    attributes = {"model.prestage.dev/llama": REF, "artifact.prestage.dev/llama": digest("forged"), "prestage.dev/layout": "Flat"}
    volume = {"name": "m", "csi": {"driver": "prestage.dev", "volumeAttributes": attributes}}
    said = {**template(volumes=[volume]), "annotations": {}}
    found = collected(pod("p1", on="n1", made=said), artifact("a", line("p1-uid", "-")))
    assert by_trust(found)[Trust.BOUND].artifact == digest("a")


def test_annotations_that_cannot_be_read_are_no_demand_and_hurt_nobody_else() -> None:
    wrong = pod("wrong", on="n1", made={**template(), "annotations": {"model.prestage.dev/llama": "nonsense"}})
    assert by_trust(collected(wrong, replica_set(), SEEN, pod(owner=SET, on="n1")))[Trust.BOUND].at == {"n1": 1}


def test_a_staged_model_is_asked_for_by_itself_once_for_each_generation() -> None:
    found = collected(staged_model(generation=3))
    assert found.questions == (Question("team", Line("llama-uid", "3", "model", "ref:llama")),)
    assert collected(staged_model(), artifact("a", Line("llama-uid", "1", "model", "ref:llama"))).questions == ()


def test_events_are_about_the_workload_that_people_know() -> None:
    found = collected(replica_set(), pod(owner=SET), pod("alone", on="n1"), SEEN)
    subject = found.subjects["web-uid"]
    assert (subject.resource.kind, subject.name, subject.namespace) == ("Deployment", "web", "team")
    assert found.subjects["alone-uid"].resource.kind == "Pod"


def test_what_did_not_change_is_not_read_again_and_what_did_is() -> None:
    mirrored, collector = Mirrored(namespace(), node("n1"), replica_set(), pod(owner=SET), SEEN), Collector()
    assert Trust.WAITING in by_trust(collector.collect(mirrored))
    bound = cast("dict[str, dict[str, object]]", copy.deepcopy(dict(pod(owner=SET, on="n1"))))
    bound["metadata"]["resourceVersion"] = "2"
    mirrored.put(namespace(), node("n1"), replica_set(), cast(Object, bound), SEEN)
    assert by_trust(collector.collect(mirrored)).keys() == {Trust.BOUND, Trust.STANDING}


def test_a_node_that_comes_or_is_cordoned_counts_from_then_on() -> None:
    waiting = pod(owner=SET)
    mirrored, collector = Mirrored(namespace(), node("n1"), replica_set(), waiting, SEEN), Collector()
    assert by_trust(collector.collect(mirrored))[Trust.WAITING].at.keys() == {"n1"}
    cordoned = {
        **node("n1"),
        "metadata": {"name": "n1", "uid": "n1-uid", "resourceVersion": "2"},
        "spec": {"unschedulable": True},
    }
    mirrored.put(namespace(), cordoned, node("n2"), replica_set(), waiting, SEEN)
    assert by_trust(collector.collect(mirrored))[Trust.WAITING].at.keys() == {"n2"}
