"""Buffers on an API server in memory: made in time, resized, let go; others' left alone; and what a schedule says of it."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from planning.asking import Asked
from planning.capacity import LLAMA, TARGET, asking, gpus, moment, window
from planning.cluster import Cluster, running, until
from planning.objects import (
    Mirrored,
    artifact,
    deployment,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    staged_model,
)

from prestage.api.conditions import find
from prestage.api.reading import read
from prestage.api.schedules import StagingSchedule, StagingScheduleStatus
from prestage.control.capacity.asking import Asking, boots_in
from prestage.control.capacity.buffers import POD_TEMPLATES, VERSIONS
from prestage.control.capacity.foresight import foresight_of
from prestage.control.capacity.letting_go import let_go
from prestage.control.capacity.rbac import LETTING_GO_RULES, RULES
from prestage.control.capacity.told import Capacity, Served
from prestage.control.planning.board import Board, Posted
from prestage.control.planning.outcomes import Outcomes
from prestage.control.planning.schedules import dues_by_uid, schedule_status, view_of
from prestage.control.planning.seeing import Seeing
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import EVERYTHING, Api, Object, Page, Resource, Selection, metadata_of, name_of
from prestage.kube.testing import FakeApi
from prestage.planner.plan import plan
from prestage.planner.rules import Rules

BUFFERS = VERSIONS[0]
PLANNER = Rules(peers=False)


class Place:
    """A planner's board and a clock, both in the test's hands."""

    def __init__(self, api: Api | None = None, *, looking_s: float = 0.05) -> None:
        self.fake = FakeApi()
        self.api = api or self.fake
        self.now = time.time()
        self.board, self.capacity, self.mirrors = Board(), Capacity(), Mirrored()
        self.seeing, self.outcomes = Seeing(), Outcomes()
        self.asking = Asking(
            self.api, self.mirrors, self.board, self.capacity, rules=PLANNER, now=lambda: self.now, looking_s=looking_s
        )

    def post(self, *objects: Object) -> None:
        """What the cluster has now; a plan is made of it."""
        self.mirrors.put(namespace(), staged_model(), artifact("llama", LLAMA, size=1000), *objects)
        sight = self.seeing.look(self.mirrors, self.now)
        made = plan(sight.demands, sight.nodes, self.now, rules=PLANNER)
        posted = Posted(sight.collected, tuple(sight.nodes), made)
        self.outcomes.look(posted.collected, made, self.now)
        self.board.post(posted)

    def status(self, seen: Object) -> StagingScheduleStatus:
        posted = self.board.last
        assert posted is not None
        foresight = foresight_of(self.capacity, posted, PLANNER, self.now)
        view = view_of(posted, {}, self.outcomes, foresight)
        declaration = next(one for one in posted.collected.declarations if one.subject.name == name_of(seen))
        dues = dues_by_uid(posted.collected.dues.values()).get(declaration.subject.uid, [])
        return schedule_status(read(StagingSchedule, seen), declaration, dues, view, read_moment(self.now))

    def said(self, seen: Object, kind: str = "Capacity") -> tuple[str, str]:
        found = find(self.status(seen).conditions, kind)
        assert found is not None
        return str(found.status), found.reason

    async def buffers(self) -> dict[str, object]:
        """Name to replicas."""
        return {name_of(one): cast("dict[str, object]", one["spec"])["replicas"] for one in (await self.fake.page(BUFFERS)).items}


def read_moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


@asynccontextmanager
async def at_work(place: Place) -> AsyncIterator[Place]:
    task = asyncio.create_task(place.asking.run())
    try:
        yield place
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def tried(steps: Callable[[Place], Awaitable[None]], place: Place | None = None) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), at_work(place or Place()) as here:
            await steps(here)

    asyncio.run(run())


def soon(place: Place, seconds: float = 600.0, boot: str = "4m") -> Object:
    """A window of three nodes with that label."""
    return asking("day", window(begins=round(place.now + seconds), lasts="10m"), boot=boot, nodes=gpus())


def test_nodes_are_asked_for_in_time_and_let_go_when_the_window_ends() -> None:
    async def steps(place: Place) -> None:
        day = soon(place)
        place.post(day)
        await until(lambda: place.capacity.served is Served.YES)
        assert await place.buffers() == {}
        assert place.said(day) == ("True", "Waiting")
        place.now += 600 - 240 - 5  # a second and a third of staging before it
        place.post(day)
        await until(lambda: place.fake.writes)
        await until(lambda: place.capacity.standing)
        assert await place.buffers() == {"prestage-day": 3}
        assert len((await place.fake.page(POD_TEMPLATES)).items) == 1
        assert place.said(day) == ("True", "Asked")
        place.now += 3600
        place.post(day)
        await until(lambda: not place.capacity.standing)
        assert await place.buffers() == {}
        assert (await place.fake.page(POD_TEMPLATES)).items == ()

    tried(steps)


def test_the_boot_stands_in_the_prediction_and_a_window_that_is_too_soon_for_it_says_so() -> None:
    async def steps(place: Place) -> None:
        early, late = soon(place), asking("late", window(begins=round(place.now + 60)), boot="4m", nodes=gpus())
        place.post(early, late)
        assert place.status(early).next is not None
        assert place.said(early, "Feasible") == ("False", "NoNode")  # nobody is asked yet
        await until(lambda: place.capacity.served is Served.YES)
        found = place.status(early)
        assert found.next is not None
        assert found.next.predicted_ready_at is not None
        assert abs(found.next.predicted_ready_at.timestamp() - round(place.now + 600)) <= 1
        assert (found.next.late_by, place.said(early, "Feasible"), place.said(early, "OnTime")) == (
            "0s",
            ("True", "NodesAwaited"),
            ("True", "OnTime"),
        )
        await until(lambda: place.capacity.standing)
        found = place.status(late)
        assert found.next is not None
        assert place.said(late, "OnTime") == ("False", "Booting")
        assert 175 <= int((found.next.late_by or "").rstrip("s")) <= 200
        assert "nodes that are asked for have to boot" in found.next.message

    tried(steps)


def test_it_asks_for_less_as_pods_get_nodes_and_for_none_once_all_have() -> None:
    async def steps(place: Place) -> None:
        day = asking("day", window(begins=round(place.now + 10), replicas=2), targetRef=TARGET)
        place.post(day, deployment(size=0))
        await until(lambda: place.capacity.standing)
        assert await place.buffers() == {"prestage-day": 2}
        around = [day, deployment(size=2), replica_set(), artifact("web", line()), node("n1"), node_cache("n1")]
        pods = [pod(name, owner=("ReplicaSet", "web-abc"), on="n1") for name in ("p1", "p2")]
        place.post(*around, pods[0])
        await until(lambda: [one.spec["replicas"] for one in place.capacity.standing.values()] == [1])
        place.post(*around, *pods)
        await until(lambda: not place.capacity.standing)
        assert await place.buffers() == {}
        assert place.said(day) == ("True", "Enough")

    tried(steps)


def test_what_somebody_deletes_is_made_again_and_what_is_not_ours_stays_as_it_is() -> None:
    foreign: Object = {"metadata": {"name": "prestage-day", "namespace": "team"}, "spec": {"replicas": 9}}

    async def steps(place: Place) -> None:
        await place.fake.create(BUFFERS, foreign)
        day = soon(place, 60)
        place.post(day)
        await until(lambda: place.capacity.refused)
        assert await place.buffers() == {"prestage-day": 9}
        assert place.said(day) == ("False", "NotAsked")
        await place.fake.delete(BUFFERS, "prestage-day", namespace="team")
        place.post(day)
        await until(lambda: place.capacity.standing)
        assert await place.buffers() == {"prestage-day": 3}
        [first] = place.capacity.standing.values()
        await place.fake.delete(BUFFERS, "prestage-day", namespace="team")
        await until(lambda: {one.uid for one in place.capacity.standing.values()} - {first.uid})
        assert place.said(day) == ("True", "Asked")

    tried(steps)


class Without(FakeApi):
    """An API server without the kind, or that lets nobody see it, until it is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        if self.error is not None and resource in VERSIONS:
            raise self.error
        return await super().page(resource, selection, limit=limit, rest=rest)


def test_where_the_kind_is_not_served_that_is_said_and_it_is_asked_once_it_is() -> None:
    for error, served in ((Missing("no such kind"), "NotServed"), (Forbidden("no"), "NotAllowed")):
        api = Without(error)
        place = Place(api)
        place.fake = api

        async def steps(place: Place, api: Without = api, served: str = served) -> None:
            day = soon(place, 60)
            place.post(day)
            await until(lambda: place.capacity.served == served)
            assert place.said(day) == ("False", served)
            assert place.said(day, "Feasible") == ("False", "NoNode")
            api.error = None
            await until(lambda: place.capacity.standing)
            assert place.said(day) == ("True", "Asked")

        tried(steps, place)


class Refusing(FakeApi):
    """An API server that lets nobody create what the planner asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        self.asked += 1
        raise Forbidden("no right to create it")


def test_what_failed_is_put_off_so_that_a_burst_of_plans_is_no_burst_of_requests() -> None:
    api = Refusing()

    async def steps(place: Place) -> None:
        place.post(soon(place, 60))
        await until(lambda: api.asked)
        for _ in range(20):
            place.post(soon(place, 60))
            await asyncio.sleep(0.01)
        assert api.asked == 1

    tried(steps, Place(api, looking_s=5.0))


def test_without_the_switch_a_schedule_says_so_and_nothing_is_asked() -> None:
    place = Place()
    day = soon(place)
    place.post(day)
    assert place.said(day) == ("False", "SwitchedOff")
    assert place.status(day).capacity is None


def test_boots_are_measured_from_the_buffer_to_a_store_that_takes_bytes_and_count_from_then_on() -> None:
    async def steps(place: Place) -> None:
        day = soon(place, 60)
        place.post(day)
        await until(lambda: place.capacity.standing)
        place.post(day)
        await asyncio.sleep(0.1)
        place.now += 123
        fresh = node("n1", gpu="h100")
        fresh = {**fresh, "metadata": {**metadata_of(fresh), "creationTimestamp": moment(place.now)}}
        place.post(day, fresh)  # it is there, and its agent is not
        await asyncio.sleep(0.1)
        assert place.capacity.boots.of("day-uid") == ()
        place.now += 10
        place.post(day, fresh, node_cache("n1"))
        await until(lambda: place.capacity.boots.of("day-uid"))
        [boot] = place.capacity.boots.of("day-uid")
        assert 131 <= boot <= 136
        state = place.status(day).capacity
        assert state is not None
        assert state.boots is not None
        assert boots_in({"status": {"capacity": {"boots": [*state.boots, "much", None]}}}) == [float(state.boots[0].rstrip("s"))]

    tried(steps)


def test_every_right_is_used_and_none_is_missing_and_an_uninstall_leaves_none() -> None:
    fake = FakeApi()
    asked = Asked(fake)
    place = Place(asked)
    place.fake = fake

    async def steps(place: Place) -> None:
        day = soon(place, 60)
        place.post(day)
        await until(lambda: place.capacity.standing)
        more = asking("day", window(begins=round(place.now + 60)), nodes=gpus(5))
        more = {**more, "metadata": {**metadata_of(more), "resourceVersion": "2"}}
        place.post(more)
        await until(lambda: [one.spec["replicas"] for one in place.capacity.standing.values()] == [5])
        await fake.create(BUFFERS, {"metadata": {"name": "prestage-other", "namespace": "team"}, "spec": {"replicas": 1}})
        place.post(more, asking("other", window(begins=round(place.now + 60)), nodes={"selector": {}, "count": 1}))
        await until(lambda: place.capacity.refused)
        place.post()
        await until(lambda: not place.capacity.standing)
        place.post(day)
        await until(lambda: place.capacity.standing)

    tried(steps, place)
    given = {(verb, rule.api_group, rule.resource) for rule in RULES for verb in rule.verbs}
    assert asked.used == given
    hook = Asked(fake)
    assert asyncio.run(let_go(hook)) == 1
    assert hook.used == {(verb, rule.api_group, rule.resource) for rule in LETTING_GO_RULES for verb in rule.verbs}
    assert [name_of(one) for one in asyncio.run(fake.page(BUFFERS)).items] == ["prestage-other"]


def test_a_planner_with_the_switch_asks_and_its_schedule_says_so() -> None:
    async def steps() -> None:
        cluster = Cluster()
        await cluster.put(namespace(), staged_model(), asking("day", {"name": "now"}, nodes=gpus(2)))
        planner = cluster.planner(capacity_buffers=True)
        async with asyncio.timeout(20), running(planner):
            await until(lambda: planner.capacity.standing, seconds=15)
            [made] = (await cluster.api.page(BUFFERS)).items
            owners = cast("list[dict[str, object]]", metadata_of(made)["ownerReferences"])
            assert [(one["kind"], one["name"]) for one in owners] == [("StagingSchedule", "day")]
            assert planner.tally.writes["capacitybuffer"] == 1

    asyncio.run(steps())
