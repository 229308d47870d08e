"""Records of templates whose owners are gone: marked, then dropped; never one that anybody has."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from brokers import Cluster as BrokersCluster
from hypothesis import given
from hypothesis import strategies as st
from planning.cluster import Cluster, running, until
from planning.objects import artifact, line, namespace, node, pod, replica_set, staged_model

from prestage.api.artifacts import TemplateUse
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.control.broker.records import Records
from prestage.control.broker.sources import Trace
from prestage.control.forgetting import TEMPLATES_MAX, RecordTerms, after_look, living
from prestage.control.planning.forgetting import Forgetting, asked
from prestage.kube.errors import Missing
from prestage.kube.ports import uid_of
from prestage.kube.resources import REPLICA_SETS, STAGED_MODELS

TERMS = RecordTerms()
START = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def use(uid: str = "web", hash_: str = "h1", since: datetime.datetime | None = None) -> TemplateUse:
    return TemplateUse(uid=uid, hash=hash_, alias="llama", ref="hf://o/m", unseen_since=since)


@pytest.mark.parametrize(
    ("row", "hours", "left"),
    [
        (use(), 0, use(since=START)),
        (use(since=START), 30 * 24 - 1, use(since=START)),
        (use(since=START), 30 * 24, None),
        (use(hash_="-", since=START), 23, use(hash_="-", since=START)),
        (use(hash_="-", since=START), 24, None),
        (use("other", since=START), 10**4, use("other")),
        (use("other"), 10**4, use("other")),
    ],
)
def test_a_record_is_marked_and_dropped_once_its_owner_was_unseen_for_long(
    row: TemplateUse, hours: int, left: TemplateUse | None
) -> None:
    assert after_look([row], {"web"}, START + hours * HOUR, TERMS) == ([] if left is None else [left])


def test_jobs_go_sooner_where_an_artifact_has_nearly_as_many_records_as_it_may() -> None:
    jobs = [use(f"job-{number}", "-", START) for number in range(TEMPLATES_MAX * 3 // 4)]
    gone = {row.uid for row in jobs} | {"web"}
    assert after_look(jobs, gone, START + HOUR, TERMS) == jobs
    deployment = use(since=START)
    assert after_look([*jobs, deployment], gone, START + HOUR, TERMS) == [deployment]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["-", "h1", "h2"])), max_size=8, unique=True),
    st.lists(st.tuples(st.frozensets(st.sampled_from("abcd")), st.integers(0, 2000)), max_size=10),
)
def test_what_is_seen_is_never_dropped_and_what_comes_back_counts_anew(
    templates: list[tuple[str, str]], looks: list[tuple[frozenset[str], int]]
) -> None:
    rows, at = [use(uid, hash_) for uid, hash_ in templates], START
    unseen_for = dict.fromkeys("abcd", datetime.timedelta(0))
    for unseen, hours in looks:
        before, at = at, at + hours * HOUR
        for uid in "abcd":
            unseen_for[uid] = unseen_for[uid] + (at - before) if uid in unseen else datetime.timedelta(0)
        known, rows = rows, after_look(rows, unseen, at, TERMS)
        assert {row.uid for row in known} - unseen <= {row.uid for row in rows}
        for row in known:
            if all(one.uid != row.uid or one.hash != row.hash for one in rows):
                assert unseen_for[row.uid] >= TERMS.alone


def test_whoever_is_there_and_whoever_controls_it_lives() -> None:
    owned = pod("p1", owner=("ReplicaSet", "web-abc"), on="n1")
    found = living([owned], [replica_set(), staged_model()])
    assert {uid_of(owned), "web-abc-uid", "web-uid", uid_of(staged_model())} <= found


def test_the_broker_is_told_only_what_is_new_and_only_of_owners_that_are_nowhere() -> None:
    kept, gone = line("web-uid"), line("old-uid", "-")
    found = asked(artifact("a", kept, gone), {"web-uid"}, START, TERMS)
    assert found is not None
    assert (found.namespace, found.unseen) == ("team", ["old-uid"])
    assert asked(artifact("a", kept), {"web-uid"}, START, TERMS) is None
    assert asked({"spec": {}, "status": {"templates": [{"uid": 1}]}}, set(), START, TERMS) is None


def test_a_leader_looks_at_mirrors_that_are_whole() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(
            namespace(), node("n1"), replica_set(), pod("p1", owner=("ReplicaSet", "web-abc"), on="n1"), staged_model()
        )
        model = await cluster.find(STAGED_MODELS, "llama", "team")
        assert model is not None
        sets = (await cluster.api.page(REPLICA_SETS)).items
        owners = [str(one["metadata"]["ownerReferences"][0]["uid"]) for one in sets]  # type: ignore[index]  # JSON
        lines = [line(owners[0]), line(uid_of(model), "1"), line("gone-uid", "-")]
        await cluster.put(artifact("a", *lines))
        planner = cluster.planner()
        async with running(planner):
            await until(lambda: cluster.api.get(REPLICA_SETS, "web-abc", namespace="team"))
            await planner.world.synced()
            await Forgetting(planner.world, cluster.broker).step()
            assert [one.unseen for one in cluster.broker.told] == [["gone-uid"]]

    asyncio.run(steps())


def test_the_broker_marks_drops_and_takes_marks_back_in_the_artifact_itself() -> None:
    async def steps() -> None:
        cluster = BrokersCluster()
        manifest = manifest_of("hf:https://h/o/n", "", [FileEntry("a", 1)])
        quick = Records(cluster, terms=RecordTerms(alone=datetime.timedelta(0)))
        uses = [use("web"), use("job", "-")]
        await quick.write(manifest, "team", "hf://o/m", Trace(ref="hf://o/m"), uses)
        assert await quick.forget("team", manifest.artifact, frozenset({"job"})) == 2, "marked"
        now = await quick.now("team", manifest.artifact)
        assert now is not None
        assert [row.unseen_since is None for row in now.templates] == [True, False]
        await quick.add("team", manifest.artifact, [use("job", "-")])
        now = await quick.now("team", manifest.artifact)
        assert now is not None
        assert all(row.unseen_since is None for row in now.templates), "asked for again: it is there"
        await quick.forget("team", manifest.artifact, frozenset({"job"}))
        assert await quick.forget("team", manifest.artifact, frozenset({"job"})) == 1
        now = await quick.now("team", manifest.artifact)
        assert now is not None
        assert list(now.templates) == [use("web")]
        assert [row.source for row in now.access] == ["hf://o/m"]
        with pytest.raises(Missing):
            await quick.forget("team", "sha256:" + "0" * 64, frozenset())

    asyncio.run(steps())
