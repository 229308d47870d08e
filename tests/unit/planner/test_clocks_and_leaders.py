"""While a model is staged: the clock jumps, schedules contradict each other, the leader dies. No work twice, no deadline lost."""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import cast

from planning.cluster import Cluster, running, until
from planning.objects import artifact, digest, line, namespace, node, schedule, staged_model

from prestage.api.nodes import State
from prestage.kube.ports import Object, metadata_of, uid_of
from prestage.kube.resources import EVENTS, NODE_CACHES, STAGED_MODELS, STAGING_SCHEDULES

LLAMA = digest("ref:llama")
HOUR = 3600.0


class Clock:
    """Jumps where it is told to."""

    def __init__(self) -> None:
        self.jumped_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.jumped_s

    def moment(self, ahead_s: float) -> str:
        return datetime.datetime.fromtimestamp(round(self() + ahead_s), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def told(cluster: Cluster) -> tuple[object, dict[str, tuple[str, object]]]:
    """Generation of the node's NodeCache, and what it says: artifact to action and deadline."""
    found = await cluster.find(NODE_CACHES, "n1")
    assert found is not None
    entries = cast("list[dict[str, str]]", cast("dict[str, object]", found["spec"]).get("artifacts") or [])
    return metadata_of(found)["generation"], {one["digest"]: (one["action"], one.get("readyBy")) for one in entries}


async def status(cluster: Cluster, name: str) -> dict[str, object]:
    found = await cluster.find(STAGING_SCHEDULES, name, "team")
    return cast("dict[str, object]", (found or {}).get("status") or {})


async def says(cluster: Cluster, name: str, kind: str, reason: str) -> bool:
    conditions = cast("list[dict[str, str]]", (await status(cluster, name)).get("conditions") or [])
    return any((one["type"], one["reason"]) == (kind, reason) for one in conditions)


def staging(*digests: str) -> list[Object]:
    return [{"digest": one, "state": str(State.STAGING)} for one in digests]


def test_a_clock_that_jumps_while_it_stages_changes_no_deadline_and_stages_nothing_twice() -> None:
    async def steps() -> None:
        cluster, clock = Cluster(), Clock()
        window = {"name": "day", "readyBy": clock.moment(HOUR), "duration": "10h"}
        await cluster.put(namespace(), node("n1"), staged_model(), schedule("s", window))
        planner = cluster.planner(now=clock)
        async with asyncio.timeout(30), running(planner):
            await cluster.report("n1", used="0")
            await until(lambda: _is_told(cluster, LLAMA, window["readyBy"]))
            await cluster.report("n1", used="0", artifacts=staging(LLAMA))
            before = await told(cluster)
            for jumped_s in (-6 * HOUR, 0.0, 2 * HOUR, -40 * HOUR):  # back, right, past its beginning, out of sight
                plans, clock.jumped_s = planner.planning.timings.plans, jumped_s
                planner.planning.wake()
                await until(lambda plans=plans: planner.planning.timings.plans > plans)  # type: ignore[misc]  # bound at once
                assert (await told(cluster))[1] in (before[1], {}), jumped_s  # an empty list means keep
            clock.jumped_s = 0.0
            planner.planning.wake()
            await until(lambda: _is_told(cluster, LLAMA, window["readyBy"]))
            await cluster.report("n1", used="0", artifacts=[{"digest": LLAMA, "state": str(State.WARM)}])
            await until(lambda: says(cluster, "s", "OnTime", "OnTime"))
            assert [one.ref for one in cluster.broker.asked].count("ref:llama") == 1

    asyncio.run(steps())


def test_of_schedules_that_contradict_each_other_all_that_was_asked_for_is_kept_and_each_says_its_own() -> None:
    async def steps() -> None:
        cluster, clock = Cluster(), Clock()
        early, late = clock.moment(HOUR), clock.moment(2 * HOUR)
        await cluster.put(
            namespace(),
            node("n1"),
            staged_model(),
            schedule("late", {"name": "w", "readyBy": late, "duration": "1h"}),
            schedule("early", {"name": "w", "readyBy": early, "duration": "1h"}),
            schedule("not", {"name": "w", "readyBy": early, "duration": "1h"}, suspend=True),
        )
        async with asyncio.timeout(30), running(cluster.planner(now=clock)):
            await cluster.report("n1", used="0")
            await until(lambda: _is_told(cluster, LLAMA, early))  # once, by the sooner deadline
            await until(lambda: says(cluster, "not", "Ready", "Suspended"))
            for name, ready_by in (("early", early), ("late", late)):
                await until(lambda name=name: says(cluster, name, "OnTime", "OnTime"))  # type: ignore[misc]  # bound at once
                assert cast("dict[str, str]", (await status(cluster, name))["next"])["readyBy"] == ready_by
            made = await cluster.find(STAGING_SCHEDULES, "early", "team")
            assert made is not None
            await cluster.put({**made, "spec": {**cast("dict[str, object]", made["spec"]), "suspend": True}})
            await until(lambda: _is_told(cluster, LLAMA, late))  # the other one's deadline is not lost
            assert not [one for one in (await cluster.api.page(EVENTS)).items if one["reason"] == "Late"]

    asyncio.run(steps())


def test_a_leader_that_dies_while_it_stages_is_followed_by_one_that_says_the_same() -> None:
    async def steps() -> None:
        cluster, clock = Cluster(), Clock()
        window = {"name": "day", "readyBy": clock.moment(HOUR), "duration": "10h"}
        await cluster.put(namespace(), node("n1"), staged_model(), schedule("s", window))
        model = await cluster.find(STAGED_MODELS, "llama", "team")
        assert model is not None
        await cluster.put(artifact("ref:llama", line(uid_of(model), "1", "model", "ref:llama")))  # as the broker does
        second = cluster.planner("second", now=clock)
        async with asyncio.timeout(40):
            async with running(cluster.planner("first", now=clock)) as first:
                await cluster.report("n1", used="0")
                await until(lambda: _is_told(cluster, LLAMA, window["readyBy"]))
                await cluster.report("n1", used="0", artifacts=staging(LLAMA))
                await until(lambda: says(cluster, "s", "OnTime", "OnTime"))
                assert first.tally.is_leading
                before = await told(cluster)
            async with running(second):
                await until(lambda: second.board.last is not None and second.board.last.collected.demands, seconds=15)
                assert await told(cluster) == before
                await cluster.report("n1", used="0", artifacts=[{"digest": LLAMA, "state": str(State.WARM)}])
                await until(lambda: says(cluster, "s", "Ready", "Scheduled"), seconds=15)
                assert await told(cluster) == before
        assert cluster.broker.asked == []

    asyncio.run(steps())


async def _is_told(cluster: Cluster, artifact: str, ready_by: str) -> bool:
    found = await cluster.find(NODE_CACHES, "n1")
    return found is not None and (await told(cluster))[1] == {artifact: ("Stage", ready_by)}
