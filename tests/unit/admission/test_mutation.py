"""What a pod gets: the right volume, mounts and environment, once."""

from __future__ import annotations

import copy
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, LLAMA, OTHER, artifact, container, node, node_cache, pod
from pods.patching import patched
from pods.worlds import world

from prestage.api.annotations import Mistakes, parse
from prestage.control.admission.judgement import Judge
from prestage.control.admission.mistakes import examined
from prestage.control.admission.mutation import MODULES_PATH, VOLUME, Additions, mutated
from prestage.control.admission.review import Question
from prestage.control.patches import difference
from prestage.control.podspec import annotations_of, containers_of, gates_of, volumes_of
from prestage.kube.ports import Object

Tree = dict[str, object]


def made(given_pod: Object, additions: Additions | None = None) -> Object:
    return mutated(given_pod, parse(annotations_of(given_pod)), additions)


def mounted(seen: Object) -> dict[str, list[str]]:
    """Container to the paths it has."""
    return {
        str(one["name"]): [str(mount["mountPath"]) for mount in cast(list[Tree], one.get("volumeMounts", []))]
        for _, _, one in containers_of(seen)
    }


def environment(seen: Object, name: str = "server") -> dict[str, str]:
    found = next(one for _, _, one in containers_of(seen) if one["name"] == name)
    return {str(one["name"]): str(one.get("value", "")) for one in cast(list[Tree], found.get("env", []))}


def test_one_line_gives_a_read_only_volume_and_a_mount() -> None:
    seen = made(pod())
    assert volumes_of(seen) == [
        {
            "name": VOLUME,
            "csi": {
                "driver": "prestage.dev",
                "readOnly": True,
                "volumeAttributes": {"model.prestage.dev/llama": LLAMA, "prestage.dev/layout": "Directory"},
            },
        }
    ]
    [only] = [one for _, _, one in containers_of(seen)]
    assert only["volumeMounts"] == [{"name": VOLUME, "mountPath": "/models", "readOnly": True}]
    assert "env" not in only


def test_the_pod_that_was_handed_in_is_left_as_it_was() -> None:
    before = pod()
    kept = copy.deepcopy(before)
    made(before)
    assert before == kept


@pytest.mark.parametrize(
    ("containers", "named", "expected"),
    [
        ([container("a"), container("b", gpus=1), container("c", gpus=2)], None, {"b", "c"}),
        ([container("a"), container("b", resources={"claims": [{"name": "gpu"}]})], None, {"b"}),
        ([container("a"), container("b", resources={"limits": {"requests.kubernetes.io/x": "1", "cpu": "2"}})], None, {"a"}),
        ([container("istio-proxy"), container("server"), container("more")], None, {"server"}),
        ([container("istio-proxy"), container("daprd")], None, {"istio-proxy"}),
        ([container("a", gpus=1), container("b")], "b", {"b"}),
        ([container("a", gpus=1), container("b")], "b, warmup", {"b", "warmup"}),
    ],
)
def test_the_containers_that_are_meant(containers: list[Object], named: str | None, expected: set[str]) -> None:
    annotations = {"model.prestage.dev/llama": LLAMA} | ({"prestage.dev/containers": named} if named else {})
    init = [container("warmup", gpus=1)]
    seen = made(pod(annotations, spec={"containers": containers, "initContainers": init}))
    assert {name for name, paths in mounted(seen).items() if "/models" in paths} == expected


def test_the_hub_layout_sets_what_is_not_set() -> None:
    annotations = {"model.prestage.dev/llama": LLAMA, "prestage.dev/layout": "HuggingFace", "prestage.dev/mount-path": "/srv/m"}
    seen = made(pod(annotations))
    assert environment(seen) == {"HF_HUB_CACHE": "/srv/m/.hf", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": MODULES_PATH}
    assert mounted(seen)["server"] == ["/srv/m", MODULES_PATH]
    assert volumes_of(seen)[1] == {"name": "prestage-hf-modules", "emptyDir": {}}
    own = [container(env=[{"name": "HF_HUB_OFFLINE", "value": "0"}, {"name": "HF_MODULES_CACHE", "value": "/tmp/m"}])]
    seen = made(pod(annotations, spec={"containers": own}))
    assert environment(seen) == {"HF_HUB_OFFLINE": "0", "HF_MODULES_CACHE": "/tmp/m", "HF_HUB_CACHE": "/srv/m/.hf"}
    assert [one["name"] for one in volumes_of(seen)] == [VOLUME]


def test_demand_only_adds_nothing() -> None:
    asked = pod({"model.prestage.dev/llama": LLAMA, "prestage.dev/wait": "None"})
    assert difference(asked, made(asked)) == []


def test_known_artifacts_go_into_the_attributes_also_of_volumes_that_were_written_by_hand() -> None:
    by_hand = {
        "name": "model",
        "csi": {"driver": "prestage.dev", "readOnly": True, "volumeAttributes": {"model.prestage.dev/b": "ref:b"}},
    }
    foreign = {"name": "x", "csi": {"driver": "other.example", "volumeAttributes": {"model.prestage.dev/b": "ref:b"}}}
    known = {("llama", LLAMA): DIGEST, ("b", "ref:b"): OTHER, ("b", "ref:c"): DIGEST}
    seen = volumes_of(made(pod(spec={"volumes": [by_hand, foreign]}), Additions(known)))
    attributes = [cast(Tree, cast(Tree, one["csi"])["volumeAttributes"]) for one in seen]
    assert attributes[0]["artifact.prestage.dev/b"] == OTHER
    assert "artifact.prestage.dev/b" not in attributes[1]
    assert attributes[2]["artifact.prestage.dev/llama"] == DIGEST


def test_gate_and_preference_are_added_beside_those_of_others() -> None:
    term = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}, "podAffinity": {"x": "y"}}
    asked = pod(spec={"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "affinity": affinity})
    seen = made(asked, Additions(gate=True, places=("p1",)))
    assert gates_of(seen) == ["kueue.x-k8s.io/admission", "prestage.dev/warm"]
    found = cast(Tree, cast(Tree, seen["spec"])["affinity"])
    terms = cast(list[Tree], cast(Tree, found["nodeAffinity"])["preferredDuringSchedulingIgnoredDuringExecution"])
    assert terms[0] == term
    assert terms[1] == {
        "weight": 100,
        "preference": {"matchExpressions": [{"key": "prestage.dev/place", "operator": "In", "values": ["p1"]}]},
    }
    assert found["podAffinity"] == {"x": "y"}


names = st.sampled_from(["server", "istio-proxy", "a", "b", VOLUME])
paths = st.sampled_from(["/models", "/models/x", "/data", MODULES_PATH])
mounts = st.lists(st.fixed_dictionaries({"name": names, "mountPath": paths}), max_size=2)
envs = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["HF_HUB_CACHE", "HF_MODULES_CACHE", "X"])}), max_size=2)
containers = st.fixed_dictionaries(
    {"name": names},
    optional={
        "volumeMounts": st.none() | mounts,
        "env": st.none() | envs,
        "resources": st.none()
        | st.fixed_dictionaries({}, optional={"limits": st.dictionaries(st.sampled_from(["cpu", "x.io/gpu"]), st.just("1"))}),
    },
)
attributes = st.dictionaries(
    st.sampled_from(["model.prestage.dev/llama", "model.prestage.dev/b", "prestage.dev/layout", "artifact.prestage.dev/b", "zz"]),
    st.sampled_from([LLAMA, "ref:b", "Flat", DIGEST, ""]),
    max_size=3,
)
volumes = st.one_of(
    st.fixed_dictionaries({"name": names, "emptyDir": st.just({})}),
    st.fixed_dictionaries(
        {
            "name": names,
            "csi": st.fixed_dictionaries(
                {"driver": st.sampled_from(["prestage.dev", "x"])},
                optional={"readOnly": st.booleans(), "volumeAttributes": st.none() | attributes},
            ),
        }
    ),
)
notes = st.dictionaries(
    st.sampled_from(
        [
            "model.prestage.dev/llama",
            "model.prestage.dev/b",
            "prestage.dev/layout",
            "prestage.dev/containers",
            "prestage.dev/wait",
            "prestage.dev/x",
        ]
    ),
    st.sampled_from([LLAMA, "ref:b", "HuggingFace", "Flat", "server", "a,b", "Mount", "None", "?"]),
    max_size=4,
)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": st.just("p"), "namespace": st.just("team-a")}, optional={"annotations": st.none() | notes}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(containers, max_size=3)},
            optional={
                "initContainers": st.none() | st.lists(containers, max_size=2),
                "volumes": st.none() | st.lists(volumes, max_size=3),
                "schedulingGates": st.none() | st.just([{"name": "other"}]),
                "affinity": st.none() | st.just({}) | st.just({"nodeAffinity": None}),
            },
        ),
    }
)
additions = st.builds(
    Additions,
    artifacts=st.dictionaries(st.sampled_from([("llama", LLAMA), ("b", "ref:b")]), st.sampled_from([DIGEST, OTHER])),
    gate=st.booleans(),
    places=st.none() | st.lists(st.sampled_from(["p1", "p2"]), unique=True),
)


@given(pods, additions)
def test_twice_is_once_and_nothing_random_makes_it_fail(asked: Tree, more: Additions) -> None:
    try:
        request = examined(asked)
    except Mistakes as exc:
        assert exc.mistakes
        return
    once = mutated(asked, request, more)
    assert patched(asked, difference(asked, once)) == once
    again = mutated(once, examined(once), more)
    assert difference(once, again) == []


@given(pods, st.booleans())
def test_no_random_pod_makes_admission_fail(asked: Tree, whole: bool) -> None:
    there = world(node("a"), node_cache("a", {DIGEST: "Warm"}), artifact(), whole=whole)
    question = Question("u1", "Pod", "CREATE", "team-a", asked, None, False)
    assert Judge(there).pod(question).kind in ("patched", "passed", "refused")
    Judge(there).workload(Question("u1", "Job", "CREATE", "team-a", {"spec": {"template": asked}}, None, False))
