"""Which nodes are asked for, from when until when; how boots are measured; what is written, and what is ours."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from planning.capacity import BEGINS, LLAMA, TARGET, asking, gpus, moment, window
from planning.objects import (
    OURS,
    Mirrored,
    artifact,
    deployment,
    head,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    schedule,
    staged_model,
)

from prestage.control.capacity.boots import KEPT, UNKNOWN_BOOT_S, Boots, p90
from prestage.control.capacity.buffers import (
    LABEL,
    body_of,
    buffer_name,
    deeds,
    spec_of,
    standing,
    template_name,
    template_of,
)
from prestage.control.capacity.wishes import Wish, next_at, wanted, wishes
from prestage.control.planning.seeing import Seeing
from prestage.kube.events import Subject
from prestage.kube.ports import Object
from prestage.kube.resources import STAGING_SCHEDULES
from prestage.planner.rules import Rules

NOW = BEGINS - 3600
RULES = Rules(peers=False)


def seen(*objects: Object, size: int = 100_000, now: float = NOW) -> list[Wish]:
    mirrors = Mirrored(namespace(), staged_model(), artifact("llama", LLAMA, size=size), *objects)
    sight = Seeing().look(mirrors, now)
    return wishes(sight.collected, sight.nodes, {}, RULES)


def test_nodes_are_asked_for_so_early_that_they_boot_and_stage() -> None:
    [wish] = seen(asking(boot="4m", nodes=gpus()), node("n1"), node_cache("n1"))  # 1000 bytes a second
    assert wish.boot_s == 240
    assert wish.stage_s == (100 + RULES.guard_s) * RULES.slack
    assert wish.at == BEGINS - wish.boot_s - wish.stage_s
    assert wish.count == 3
    assert not wish.is_open(wish.at - 1)
    assert wish.is_open(wish.at)
    assert wish.is_open(BEGINS + 3599)
    assert not wish.is_open(BEGINS + 3600)


def test_what_is_not_measured_is_guessed_with_care() -> None:
    [wish] = seen(asking(nodes=gpus()))
    assert wish.boot_s == UNKNOWN_BOOT_S
    assert wish.stage_s == (100_000 / RULES.assumed_bytes_per_s + RULES.guard_s) * RULES.slack


def test_what_is_staged_is_warm_a_boot_and_a_stage_after_it_was_asked_for() -> None:
    [wish] = seen(asking(boot="5m", nodes=gpus()))
    assert wish.ready_at(NOW, None) == BEGINS
    late = BEGINS - 60
    assert wish.ready_at(late, None) == late + 300 + wish.stage_s
    assert wish.ready_at(late, late - 200) == late + 100 + wish.stage_s
    assert wish.ready_at(late, late - 900) == late + wish.stage_s  # it takes longer than others: at best from now on


def test_of_a_workload_it_is_the_pods_that_are_not_there_yet() -> None:
    web = [deployment(size=0), asking("day", window(replicas=3), targetRef=TARGET)]
    [wish] = seen(*web)
    assert (wish.count, wish.shape.target is not None) == (3, True)
    known = artifact("web", line())
    pods = [replica_set(), pod(owner=("ReplicaSet", "web-abc"), on="n1"), node("n1"), node_cache("n1"), known]
    [wish] = seen(*web, *pods)
    assert wish.count == 2
    [wish] = seen(*web, *pods, pod("p2", owner=("ReplicaSet", "web-abc")))  # pending: the autoscaler sees it
    assert wish.count == 1


def test_a_schedule_that_does_not_ask_or_is_suspended_gets_none() -> None:
    assert seen(schedule("day", window(), nodes=gpus())) == []
    assert seen(asking(suspend=True, nodes=gpus())) == []
    assert seen(asking(nodes={"selector": {}})) == []  # how many, nobody says


def test_of_windows_that_meet_the_most_is_asked_for_and_of_schedules_for_the_same_pods_the_one_that_asks_most() -> None:
    two = asking("two", window("a", replicas=2), window("b", replicas=5), targetRef=TARGET)
    one = asking("one", window("a", replicas=4), targetRef=TARGET)
    other = asking("other", window("a"), nodes=gpus(1))
    found = wanted(seen(two, one, other, deployment(size=0)), BEGINS)
    assert {uid: wish.count for uid, wish in found.items()} == {"two-uid": 5, "other-uid": 1}


def test_it_is_looked_at_again_when_something_is_to_be_asked_for_or_ends() -> None:
    found = seen(asking(boot="4m", nodes=gpus()))
    [wish] = found
    assert next_at(found, NOW) == wish.at
    assert next_at(found, wish.at) == BEGINS + 3600
    assert next_at(found, BEGINS + 3600) == math.inf


def test_nine_of_ten_boots_are_shorter() -> None:
    assert p90([]) is None
    assert p90([30.0, 20.0]) == 30.0
    assert p90([float(number) for number in range(1, 11)]) == 9.0


def test_a_boot_is_from_being_asked_for_to_taking_bytes_once_a_node() -> None:
    boots, buffer = Boots(), ("b1", 1000.0, 2)
    boots.look("s", buffer, {"old": 10.0}, 1001.0)  # it was there before
    boots.look("s", buffer, {"old": 10.0, "new": 1100.0}, 1180.0)
    boots.look("s", buffer, {"old": 10.0, "new": 1100.0}, 1300.0)
    assert boots.of("s") == (180.0,)
    boots.look("s", buffer, {"old": 10.0, "new": 1100.0, "back": 500.0}, 1400.0)  # one that came back is no boot
    boots.look("s", buffer, {"second": 1200.0, "third": 1200.0}, 1500.0)  # two were asked for
    assert boots.of("s") == (500.0, 180.0)
    boots.look("s", ("b2", 9000.0, 9), {}, 9000.0)
    boots.look("s", ("b2", 9000.0, 9), {"fourth": 17_000.0}, 17_000.0)  # for another reason
    assert boots.of("s") == (500.0, 180.0)


def test_boots_outlive_the_process_by_the_status_and_are_few() -> None:
    boots = Boots()
    boots.recall("s", [float(number) for number in range(20)])
    assert len(boots.of("s")) == KEPT
    boots.recall("s", [99.0])
    assert boots.of("s")[0] == 0.0
    boots.forget({"other"})
    assert boots.of("s") == ()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e5), st.sets(st.integers(0, 5))), max_size=12))
def test_never_more_boots_than_nodes_that_were_asked_for(looks: list[tuple[int, float, set[int]]]) -> None:
    boots, most = Boots(), 0
    for number, (count, now, up) in enumerate(sorted(looks, key=lambda look: look[1])):
        boots.look("s", (f"b{number % 2}", 0.0, count), {str(one): 1.0 for one in up}, now)
        most += count
    assert len(boots.of("s")) <= min(KEPT, most)
    assert all(0 <= one <= 7200 for one in boots.of("s"))


def there(wish: Wish, **more: object) -> Object:
    made = body_of(wish)
    metadata = {**made["metadata"], "uid": "b-uid", "creationTimestamp": moment(NOW), **more}  # type: ignore[dict-item]
    return {**made, "metadata": metadata}


def test_pods_of_a_workload_are_asked_for_by_reference_nodes_by_a_pod_a_node() -> None:
    [wish] = seen(asking("day", window(replicas=3), targetRef=TARGET), deployment(size=0))
    assert spec_of(wish) == {"scalableRef": {"apiGroup": "apps", "kind": "Deployment", "name": "web"}, "replicas": 3}
    assert template_of(wish) is None
    [wish] = seen(asking(nodes=gpus()))
    assert spec_of(wish) == {"podTemplateRef": {"name": "prestage-day-uid"}, "replicas": 3}
    template = template_of(wish)
    assert template is not None
    said = str(template["template"])
    assert "'key': 'gpu', 'operator': 'In', 'values': ['h100']" in said
    assert "podAntiAffinity" in said
    assert template["metadata"]["name"] == template_name("day-uid")  # type: ignore[index]


def test_what_is_there_is_made_resized_or_deleted_and_never_twice() -> None:
    [wish] = seen(asking(nodes=gpus()))
    ours = standing(there(wish))
    assert ours is not None
    assert (ours.owner, ours.since) == ("day-uid", NOW)
    assert deeds({"day-uid": wish}, []).make == (wish,)
    assert deeds({"day-uid": wish}, [ours]) == deeds({}, [])
    [(resized, _)] = deeds({"day-uid": seen(asking(nodes=gpus(5)))[0]}, [ours]).resize
    assert resized is ours
    assert deeds({}, [ours]).delete == (ours,)
    [other] = seen(asking("day", window(replicas=3), targetRef=TARGET), deployment(size=0))
    due = deeds({"day-uid": other}, [ours])
    assert (due.delete, due.make) == ((ours,), ())  # another shape: made when this one is gone


def test_what_somebody_else_made_is_not_ours_whatever_its_labels_say() -> None:
    [wish] = seen(asking(nodes=gpus()))
    assert standing(there(wish, ownerReferences=[])) is None
    assert standing(there(wish, labels={})) is None
    foreign = {"apiVersion": "other.dev/v1", "kind": "StagingSchedule", "name": "day", "uid": "day-uid", "controller": True}
    assert standing(there(wish, ownerReferences=[foreign])) is None
    assert standing(there(wish, ownerReferences=[{**foreign, "apiVersion": OURS, "controller": False}])) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["prestage", OURS, "StagingSchedule"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["labels", LABEL, "ownerReferences", "kind", "apiVersion", "controller", "uid"]), inner)
    ),
    max_leaves=10,
)


@given(_JSON, _JSON)
def test_whatever_a_buffer_looks_like_it_is_read_or_not_ours(metadata: object, spec: object) -> None:
    found = standing({"metadata": metadata, "spec": spec})
    assert found is None or found.since >= 0


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    names = {buffer_name(Subject.of(STAGING_SCHEDULES, {"metadata": head("x" * 240 + str(number))})) for number in range(2)}
    assert len(names) == 2
    assert all(len(name) <= 200 for name in names)
