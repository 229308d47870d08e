"""`prestage plan --dry-run --from-cluster`: what is read, what a missing right is told as, and whose words stand in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.objects import (
    OURS,
    RESOURCES,
    Mirrored,
    artifact,
    cron_job,
    deployment,
    digest,
    head,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    schedule,
    staged_model,
    template,
)

from prestage.cacher.errors import NotFound
from prestage.control.demand.image_lines import image_line
from prestage.control.demand.world import KEPT
from prestage.control.planning.seeing import Seeing
from prestage.control.rehearsal.cluster import Gathered, gathered, rehearsal_of
from prestage.control.rehearsal.rehearsal import Played
from prestage.control.rehearsal.shown import as_json, shown
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import EVERYTHING, Object, Page, Resource, Selection
from prestage.kube.resources import CACHE_POLICIES, NODE_CACHES, NODES, SCALED_OBJECTS, STAGING_SCHEDULES
from prestage.kube.testing import FakeApi
from prestage.planner.plan import plan
from prestage.planner.rules import Rules

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
LLAMA = line("llama-uid", "1", "model", "ref:llama")
WINDOW = {"name": "day", "readyBy": "2027-01-15T08:01:40Z", "duration": "1h"}


def scene(*more: Object, size: int = 1000) -> Mirrored:
    """Two nodes at 1000 bytes a second, one of them warm; a model that a schedule wants on both in 100 s."""
    names = [node("n1"), node("n2"), node_cache("n1", "llama", used="1000"), node_cache("n2", used="0")]
    return Mirrored(namespace(), *names, staged_model(), artifact("llama", LLAMA, size=size), *more)


def rehearsed(mirrors: Mirrored) -> Played:
    seen = Gathered({kept.resource: mirrors[kept.resource] for kept in KEPT})
    return rehearsal_of(seen, NOW, Rules(peers=False)).play(3600)


def test_it_is_the_planners_own_plan_with_the_words_of_those_who_asked() -> None:
    mirrors = scene(schedule("day", WINDOW))
    played = rehearsed(mirrors)
    sight = Seeing().look(mirrors, NOW)
    assert played.plan == plan(sight.demands, sight.nodes, NOW, walls=sight.walls, rules=Rules(peers=False))
    text = list(shown(played))
    assert "2027-01-15T08:00:00  n2            begins   team/llama" in text
    assert "2027-01-15T08:00:01  n2            warm     team/llama" in text
    [said] = [one for one in text if one.startswith("team/llama for")]
    assert said.startswith("team/llama for stagingschedule team/day, window day: OnTime (")
    assert played.is_good


def test_what_will_be_late_is_told_with_what_would_fix_it() -> None:
    played = rehearsed(scene(schedule("day", WINDOW), size=200_000))
    assert not played.is_good
    [said] = cast("list[dict[str, object]]", as_json(played)["demand"])
    assert (said["outcome"], said["lateBySeconds"], said["for"]) == ("Late", 100.0, "stagingschedule team/day, window day")
    assert said["fix"] == {"remedy": "Rate", "amount": 2000.0}
    assert said["artifact"] == digest("llama")


def test_pods_are_told_apart_from_schedules_and_what_is_only_kept_is_no_demand() -> None:
    web = line("web-uid", "abc", "llama", "hf://org/model@main")
    mirrors = scene(deployment(), replica_set(), pod(owner=("ReplicaSet", "web-abc"), on="n2"), artifact("web", web))
    assert [one["for"] for one in cast("list[dict[str, object]]", as_json(rehearsed(mirrors))["demand"])] == [
        "pods of deployment team/web"
    ]


def test_images_are_played_where_nodes_stage_them_by_the_names_that_their_people_gave_them() -> None:
    image = image_line("web-uid", "abc", "oci://registry.example/vllm:0.33", "amd64")
    room = {"runtime": "2.3.4", "snapshotter": "overlayfs", "budget": "1Mi", "rateP10": "100"}
    made = template()
    spec = cast("dict[str, list[dict[str, object]]]", made["spec"])
    spec["containers"][0]["image"] = "registry.example/vllm:0.33"
    web = [deployment(made=made), replica_set(made=made), pod(owner=("ReplicaSet", "web-abc"), on="n1", made=made)]
    caches = [node_cache("n1", images=room), node_cache("n2")]
    known = [artifact("model", line()), artifact("image", image, size=500)]
    played = rehearsed(Mirrored(namespace(), node("n1"), node("n2"), *caches, *web, *known))
    text = list(shown(played))
    assert "2027-01-15T08:00:05  n1            warm     oci://registry.example/vllm:0.33" in text
    assert any(one.startswith("oci://registry.example/vllm:0.33 for pods of deployment team/web: ") for one in text)
    none = rehearsed(Mirrored(namespace(), node("n1"), node("n2"), node_cache("n1"), node_cache("n2"), *web, *known))
    assert not any("oci://" in one for one in shown(none))


def test_what_is_not_resolved_or_wrong_is_said_and_not_passed_over() -> None:
    wrong = schedule("typo", {"name": "x", "readySchedule": "0 8 31 2 *", "duration": "1h"})
    mirrors = Mirrored(namespace(), node("n1"), node_cache("n1"), staged_model(), schedule("day", WINDOW), wrong)
    notes = rehearsed(mirrors).rehearsal.notes
    assert "ref:llama in team is not resolved yet: nobody knows how large it is, and it is left out" in notes
    assert any(note.startswith("stagingschedule team/typo: window x: ") for note in notes)


def test_two_revisions_of_one_ref_are_told_apart() -> None:
    sets = [replica_set(f"web-{revision}", revision=revision) for revision in ("abc", "def")]
    mirrors = scene(*sets, *(artifact(one, line(revision=one)) for one in ("abc", "def")))
    assert {rehearsed(mirrors).rehearsal.names[digest(one)] for one in ("abc", "def")} == {
        f"hf://org/model@main ({digest(one)[7:15]})" for one in ("abc", "def")
    }


def test_what_others_wrote_stays_one_line() -> None:
    mirrors = scene(schedule("day", {**WINDOW, "name": "day"}), schedule("evil", models=["a\x1b[2Jb\nc"]))
    for note in rehearsed(mirrors).rehearsal.notes:
        assert note.isprintable()


class _Refusing(FakeApi):
    """Without the right to list some kinds, or without the kinds."""

    def __init__(self, forbidden: tuple[Resource, ...] = (), missing: tuple[Resource, ...] = ()) -> None:
        super().__init__()
        self._forbidden, self._missing = forbidden, missing

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        if resource in self._forbidden:
            raise Forbidden(f"list {resource.plural}: no")
        if resource in self._missing:
            raise Missing(f"list {resource.plural}: 404")
        return await super().page(resource, selection, limit=limit, rest=rest)


def test_every_right_that_is_missing_is_named_at_once_with_the_command_that_gives_it() -> None:
    with pytest.raises(Forbidden) as refused:
        asyncio.run(gathered(_Refusing(forbidden=(NODES, NODE_CACHES, SCALED_OBJECTS))))
    assert refused.value.message == ("you may not list, in the whole cluster: nodes, nodecaches.prestage.dev")
    assert "--resource=nodes,nodecaches.prestage.dev`" in (refused.value.hint or "")  # kubectl makes none for what is not served


def test_kinds_of_others_are_left_out_where_they_may_not_be_seen_and_that_is_said() -> None:
    seen = asyncio.run(gathered(_Refusing(forbidden=(SCALED_OBJECTS,))))
    assert rehearsal_of(seen, NOW, Rules()).notes == ("scaledobjects.keda.sh are left out: you may not list them",)
    absent = asyncio.run(gathered(_Refusing(missing=(SCALED_OBJECTS,))))
    assert rehearsal_of(absent, NOW, Rules()).notes == ()


def test_a_cluster_without_prestage_is_a_miss() -> None:
    with pytest.raises(NotFound, match=r"does not serve stagingschedules\.prestage\.dev|cachepolicies") as missed:
        asyncio.run(gathered(_Refusing(missing=(STAGING_SCHEDULES, CACHE_POLICIES))))
    assert missed.value.hint


def test_it_reads_page_by_page_and_writes_nothing() -> None:
    async def steps() -> tuple[int, list[object]]:
        api = FakeApi()
        for number in range(501):  # a page holds 500
            await api.create(NODES, node(f"n{number}"))
        api.writes.clear()
        seen = await gathered(api)
        return len(seen[NODES]), list(api.writes)

    assert asyncio.run(steps()) == (501, [])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.text(max_size=6) | st.sampled_from(["1Gi", "llama", "n1", "Stage"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({
        *("replicas", "artifacts", "windows", "nodes", "name", "selector", "template", "spec", "metadata", "annotations"),
        *("taints", "allocatable", "budget", "digest", "state", "templates", "uid", "size", "schedule", "jobTemplate"),
        *("readyBy", "duration", "modelRef", "targetRef", "capacity", "type", "containers", "minReplicas", "scaleTargetRef"),
    })), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
_KINDS = sorted(set(RESOURCES) - {"Namespace"})


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(_KINDS), _JSON, _JSON), max_size=6))
def test_whatever_objects_a_cluster_has_it_is_rehearsed(drawn: list[tuple[str, object, object]]) -> None:
    made = list[Object]()
    for number, (kind, spec, status) in enumerate(drawn):
        place = "team" if RESOURCES[kind].namespaced else None
        body: Mapping[str, object] = {"kind": kind, "metadata": head(f"o{number}", place, generation=1), "spec": spec}
        made.append({"apiVersion": OURS, **body, "status": status})
    mirrors = scene(schedule("day", WINDOW), cron_job(), *made)
    played = rehearsed(mirrors)
    assert played.plan.verdicts.keys() == {one.id for one in played.rehearsal.demands}
