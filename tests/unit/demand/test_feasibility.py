"""Where a pod may run: each filter by itself, and quantities as the scheduler adds them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from prestage.control.demand.amounts import requests_of, thousandths
from prestage.control.demand.feasibility import Misfit, Needs, Site, misfit, needs_of, site_of, slots, suits, takes_room


def node(
    name: str = "n1",
    *,
    labels: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    unschedulable: bool = False,
    taken: tuple[Mapping[str, int], ...] = (),
    **allocatable: str,
) -> Site:
    room = {"cpu": "8", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "4", **allocatable}
    spec: dict[str, object] = {"taints": taints or []}
    if unschedulable:
        spec["unschedulable"] = True
    made = {
        "metadata": {"name": name, "uid": f"{name}-uid", "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": room},
    }
    return site_of(made, taken)


def pod(*, gpus: str = "1", cpu: str = "1", affinity: object = None, **spec: object) -> Needs:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi", "nvidia.com/gpu": gpus}}}
    return needs_of({"metadata": {"name": "p"}, "spec": {"containers": [container], "affinity": affinity, **spec}})


def required(*terms: object) -> object:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def matching(key: str, operator: str, *values: str) -> object:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def test_a_plain_pod_fits_a_plain_node_as_often_as_the_scarcest_resource_says() -> None:
    assert misfit(pod(), node()) is None
    assert slots(pod(gpus="2"), node()) == 2
    assert slots(pod(gpus="0", cpu="3"), node()) == 2


def test_more_than_the_node_has_is_too_small_and_what_others_took_is_taken() -> None:
    assert misfit(pod(gpus="5"), node()) is Misfit.TOO_SMALL
    full = node(taken=({"nvidia.com/gpu": 4000},))
    assert misfit(pod(), full) is Misfit.TAKEN
    assert suits(pod(), full) is None


def test_a_resource_that_the_node_has_not_is_too_small() -> None:
    needs = needs_of({"spec": {"containers": [{"resources": {"requests": {"amd.com/gpu": "1"}}}]}})
    assert misfit(needs, node()) is Misfit.TOO_SMALL


def test_a_full_node_has_no_place_for_another_pod_even_if_it_asks_for_nothing() -> None:
    nothing = needs_of({"spec": {"containers": [{"name": "c"}]}})
    assert misfit(nothing, node(pods="1")) is None
    assert misfit(nothing, node(pods="1", taken=({"pods": 1000},))) is Misfit.TAKEN


def test_node_name_and_node_selector() -> None:
    assert misfit(pod(nodeName="n2"), node()) is Misfit.NODE_NAME
    assert misfit(pod(nodeSelector={"gpu": "h100"}), node()) is Misfit.SELECTOR
    assert misfit(pod(nodeSelector={"gpu": "h100"}), node(labels={"gpu": "h100"})) is None


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        (matching("gpu", "In", "h100", "h200"), True),
        (matching("gpu", "In", "a100"), False),
        (matching("gpu", "NotIn", "a100"), True),
        (matching("gpu", "NotIn", "h100"), False),
        (matching("none", "NotIn", "x"), True),
        (matching("gpu", "Exists"), True),
        (matching("none", "Exists"), False),
        (matching("none", "DoesNotExist"), True),
        (matching("gpu", "DoesNotExist"), False),
        (matching("memory", "Gt", "79"), True),
        (matching("memory", "Gt", "80"), False),
        (matching("memory", "Lt", "81"), True),
        (matching("gpu", "Gt", "1"), False),
        (matching("gpu", "Nonsense", "1"), False),
        ({}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}, False),
    ],
)
def test_required_affinity_is_read_as_kubernetes_reads_it(expression: object, fits: bool) -> None:
    site = node(labels={"gpu": "h100", "memory": "80"})
    assert misfit(pod(affinity=required(expression)), site) is (None if fits else Misfit.AFFINITY)


def test_any_of_the_terms_is_enough_and_none_at_all_selects_nothing() -> None:
    either = required(matching("gpu", "In", "a100"), matching("gpu", "Exists"))
    assert misfit(pod(affinity=either), node(labels={"gpu": "h100"})) is None
    assert misfit(pod(affinity=required()), node()) is Misfit.AFFINITY


NO_SCHEDULE = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], fits: bool) -> None:
    needs = pod(tolerations=[toleration])
    assert misfit(needs, node(taints=NO_SCHEDULE)) is (None if fits else Misfit.TAINT)


def test_a_taint_that_only_prefers_keeps_nobody_away_and_a_cordon_does() -> None:
    assert misfit(pod(), node(taints=[{"key": "gpu", "effect": "PreferNoSchedule"}])) is None
    assert misfit(pod(), node(unschedulable=True)) is Misfit.TAINT
    daemon = pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}])
    assert misfit(daemon, node(unschedulable=True)) is None


def test_a_new_node_is_planned_for_while_our_own_taint_keeps_pods_off_it() -> None:
    assert misfit(pod(), node(taints=[{"key": "prestage.dev/starting", "effect": "NoSchedule"}])) is None
    other = {"key": "prestage.dev/started", "effect": "NoSchedule"}
    assert misfit(pod(), node(taints=[{"key": "prestage.dev/starting", "effect": "NoSchedule"}, other])) is Misfit.TAINT


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2", 2000),
        ("500m", 500),
        ("1.5", 1500),
        ("0.0005", 1),
        ("1Ki", 1_024_000),
        ("1e3", 1_000_000),
        ("5E", 5 * 10**21),
        ("100n", 1),
        ("3u", 1),
        ("2k", 2_000_000),
        ("1E2", 100_000),
        ("1e-1", 100),
        (".5", 500),
        ("nonsense", 0),
        ("", 0),
    ],
)
def test_quantities(text: str, amount: int) -> None:
    assert thousandths(text) == amount


def test_init_containers_count_by_the_largest_and_sidecars_with_the_rest() -> None:
    def asks(cpu: str, **more: str) -> dict[str, object]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {"containers": [asks("1"), asks("1")], "initContainers": [asks("1", restartPolicy="Always"), asks("4")]}
    assert requests_of(spec)["cpu"] == 5000
    assert requests_of({**spec, "initContainers": [asks("500m")]})["cpu"] == 2000
    assert requests_of({**spec, "overhead": {"cpu": "250m"}})["cpu"] == 5250
    assert requests_of({**spec, "resources": {"requests": {"cpu": "3"}}})["cpu"] == 3000


def test_accelerators_are_the_extended_resources() -> None:
    assert pod(gpus="2").accelerators == 2
    assert pod(gpus="0").accelerators == 0


def test_a_pod_takes_room_from_its_binding_to_its_end() -> None:
    assert takes_room({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}) == "n1"
    assert takes_room({"spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}) is None
    assert takes_room({"spec": {}, "status": {"phase": "Pending"}}) is None


def test_pods_alike_share_one_object_of_needs_wherever_they_are() -> None:
    spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {}}}], "nodeSelector": {"zone": "a"}}
    one, other = (needs_of({"spec": {**spec, "priority": priority}}) for priority in (1, 2))
    bound = needs_of({"spec": {**spec, "nodeName": "n1"}})
    assert one is other is one.anywhere() is bound.anywhere()
    assert bound != one
    assert hash(bound) != hash(one)
    assert needs_of({"spec": {**spec, "nodeSelector": {"zone": "b"}}}) != one
