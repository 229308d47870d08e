"""Many nodes at once give the same answers as one by one; walls; what is trimmed."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning.objects import head, node, pod, template

from prestage.api.policies import CachePolicy, CachePolicySpec, HardLimits
from prestage.api.selecting import selects
from prestage.api.values import LabelSelector, Metadata, SelectorOperator, SelectorTerm
from prestage.control.demand import trimming
from prestage.control.demand.feasibility import misfit, needs_of, site_of, slots, suits
from prestage.control.demand.pods import PodFacts, facts_of
from prestage.control.demand.sites import Sites
from prestage.control.demand.walls import wall_of
from prestage.kube.ports import Object, name_of
from prestage.planner.demands import Wall

TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


_MORE: list[dict[str, object]] = [{}, {"nodeSelector": {"zone": "a"}}, {"tolerations": [{"operator": "Exists"}]}]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Object], list[Object]]:
    zones, names = st.sampled_from(["a", "b"]), [f"n{number}" for number in range(draw(st.integers(1, 5)))]
    nodes = [
        node(name, gpus=draw(st.integers(0, 4)), taints=draw(st.sampled_from([(), (TAINT,)])), zone=draw(zones)) for name in names
    ]
    pods = list[Object]()
    for number in range(draw(st.integers(0, 8))):
        more = draw(st.sampled_from(_MORE))
        said = template(gpus=draw(st.integers(0, 3)))
        made = {**said, "spec": {**cast("dict[str, object]", said["spec"]), **more}}
        pods.append(pod(f"p{number}", on=draw(st.none() | st.sampled_from(names)), made=made))
    return nodes, pods


@given(clusters())
def test_sites_answer_as_feasibility_does(cluster: tuple[list[Object], list[Object]]) -> None:
    nodes, pods = cluster
    facts: list[PodFacts] = list(filter(None, map(facts_of, pods)))
    sites = Sites()
    sites.look(nodes, facts)
    alone = {
        name_of(one): site_of(one, [dict(fact.needs.requests) for fact in facts if fact.takes_room_on == name_of(one)])
        for one in nodes
    }
    for needs in {fact.needs for fact in facts}:
        assert sites.feasible(needs) == {name for name, site in alone.items() if suits(needs, site) is None}
        fitting = {name: slots(needs, site) for name, site in alone.items() if misfit(needs, site) is None}
        assert sites.fitting(needs) == fitting


def policy(selector: LabelSelector, hard: HardLimits | None = None, most: int | None = None) -> CachePolicy:
    spec = CachePolicySpec(namespace_selector=selector, hard=hard, max_priority=most)
    return CachePolicy(metadata=Metadata(name="p"), spec=spec)


def test_several_policies_on_a_namespace_are_their_intersection() -> None:
    all_of_them = policy(LabelSelector(), HardLimits(bytes_per_node="2Ki", bytes=5000), 10)
    some = policy(LabelSelector(match_labels={"team": "red"}), HardLimits(bytes_per_node="1Ki", pinned="3Ki"), 20)
    assert wall_of({"team": "red"}, [all_of_them, some]) == Wall(1024, 5000, 3072, 10)
    assert wall_of({"team": "blue"}, [all_of_them, some]) == Wall(2048, 5000, None, 10)
    assert wall_of({}, []) == Wall()


@pytest.mark.parametrize(
    ("term", "holds"),
    [
        (SelectorTerm(key="team", operator=SelectorOperator.IN, values=["red"]), True),
        (SelectorTerm(key="team", operator=SelectorOperator.NOT_IN, values=["red"]), False),
        (SelectorTerm(key="none", operator=SelectorOperator.EXISTS), False),
        (SelectorTerm(key="none", operator=SelectorOperator.DOES_NOT_EXIST), True),
    ],
)
def test_selectors_have_all_four_operators(term: SelectorTerm, holds: bool) -> None:
    assert selects(LabelSelector(match_expressions=[term]), {"team": "red"}) is holds


def test_what_is_trimmed_asks_for_the_same_of_a_node() -> None:
    whole = {**pod(made=template(gpus=2, tolerations=[{"operator": "Exists"}], nodeSelector={"zone": "a"}))}
    whole["metadata"] = {**head("p1"), "annotations": {"other": "x", "model.prestage.dev/a": "ref:a"}, "managedFields": [{}]}
    trimmed = trimming.trimmed_pod(whole)
    assert needs_of(trimmed) == needs_of(whole)
    assert trimmed["metadata"] == {**head("p1"), "annotations": {"model.prestage.dev/a": "ref:a"}}


def test_a_manifest_and_a_heartbeat_are_not_kept_and_no_news() -> None:
    kept = trimming.trimmed_artifact({"metadata": head("a"), "spec": {"manifest": "x" * 1000}, "status": {"binding": "y"}})
    assert kept["spec"] == {"manifest": "AA=="}
    assert kept["status"] == {}
    cache = {"metadata": head("n", None), "spec": {"plan": "1"}, "status": {"heartbeatAt": "x", "used": 1, "budget": 5}}
    later = {"metadata": head("n", None), "spec": {"plan": "2"}, "status": {"heartbeatAt": "y", "used": 2, "budget": 5}}
    matter = trimming.matter_of_node_cache
    assert matter(trimming.trimmed_node_cache(cache)) == matter(trimming.trimmed_node_cache(later))
    stage = {"digest": "d", "state": "Staging", "step": "Download", "fetched": "1Gi"}
    further, other = {**stage, "step": "Verify", "fetched": "2Gi"}, {**stage, "state": "Warm"}
    said = [matter({**cache, "status": {"artifacts": [one]}}) for one in (stage, further, other)]
    assert said[0] == said[1] != said[2], "how far a stage is changes no plan"
    fuller = {**later, "status": {"budget": 6}}
    assert matter(trimming.trimmed_node_cache(cache)) != matter(trimming.trimmed_node_cache(fuller))


def test_a_pods_conditions_are_kept_and_no_news() -> None:
    calm = trimming.trimmed_pod(pod())
    loud = trimming.trimmed_pod({**pod(), "status": {"phase": "Pending", "conditions": [{"type": "Ready"}]}})
    assert loud["status"] == {"phase": "Pending", "conditions": [{"type": "Ready"}]}
    assert trimming.matter_of_pod(calm) == trimming.matter_of_pod(loud)


def test_what_we_take_off_a_pod_and_make_it_prefer_is_no_news_and_what_others_do_is() -> None:
    def of(gates: list[str], affinity: Object, **more: object) -> object:
        spec = {"schedulingGates": [{"name": name} for name in gates], "affinity": {"nodeAffinity": affinity}, **more}
        return trimming.matter_of_pod({"metadata": {**head("p"), "generation": len(gates)}, "spec": spec})

    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100}]}
    required: Object = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    gated = of(["prestage.dev/warm"], {})
    assert gated == of([], preferred)
    assert gated != of(["prestage.dev/warm", "kueue.x-k8s.io/admission"], {})
    assert gated != of(["prestage.dev/warm"], required)
    assert gated != of([], preferred, nodeName="n1")


def test_a_workload_is_news_where_its_status_comes_to_be_about_it_or_ceases_to() -> None:
    def of(generation: int, observed: int | None, **more: object) -> object:
        status = {} if observed is None else {"observedGeneration": observed}
        return trimming.matter_of_workload(
            {"metadata": {**head("w"), "generation": generation}, "spec": {}, "status": status | more}
        )

    assert of(1, None) == of(1, 1)
    assert of(2, 1) != of(2, 2)
    assert of(1, 1) != of(1, 1, updateRevision="b")


def test_a_replica_set_without_replicas_keeps_of_its_template_only_what_names_models() -> None:
    def workload(replicas: int) -> Object:
        inner = {"metadata": {"annotations": {"prestage.dev/wait": "None"}}, "spec": {"containers": [{"name": "c", "env": []}]}}
        return {"metadata": head("w"), "spec": {"replicas": replicas, "template": inner}, "status": {}}

    annotations = {"annotations": {"prestage.dev/wait": "None"}}
    none = trimming.trimmed_replica_set(workload(0))["spec"]
    assert none == {"replicas": 0, "template": {"metadata": annotations, "spec": {}}}
    whole = {"metadata": annotations, "spec": {"containers": [{"name": "c"}]}}
    assert trimming.trimmed_replica_set(workload(1))["spec"] == {"replicas": 1, "template": whole}
    assert trimming.trimmed_workload(workload(0))["spec"] == {"replicas": 0, "template": whole}
