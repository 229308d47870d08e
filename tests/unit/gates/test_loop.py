"""The release loop on a fake API server: gates go when they should, with the preference, once."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from pods.objects import DIGEST, GATE, KUEUE, NOW, artifact, lease, node, node_cache, pod
from pods.worlds import Clock, drop, put, world

from prestage.control.gates.decision import Decision, Reason
from prestage.control.gates.loop import Gates, Step
from prestage.control.gates.places import Places
from prestage.control.gates.preference import PLACE_LABEL, place
from prestage.control.gates.ungate import ungate
from prestage.control.gates.wishes import Wish, Wishes
from prestage.control.gates.world import World
from prestage.control.podspec import gates_of, part
from prestage.kube.errors import Unreachable
from prestage.kube.ports import Object, Resource, metadata_of
from prestage.kube.resources import LEASES, NODE_CACHES, NODES, PODS
from prestage.kube.testing import FakeApi

Tree = dict[str, object]
WAITING = {"schedulingGates": [GATE]}


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def gated(name: str = "p", annotations: Mapping[str, str] | None = None, *gates: Object) -> Tree:
    return pod(annotations, name=name, gpus=1, spec={"schedulingGates": [*gates, GATE]})


def reasons(there: World, api: FakeApi | None = None) -> dict[str, Reason]:
    return {str(metadata_of(step.pod)["name"]): step.verdict.reason for step in Gates(api or FakeApi(), there).steps()}


async def followed(api: FakeApi, *objects: tuple[Resource, Object]) -> None:
    for resource, one in objects:
        made = await api.create(resource, one)
        if "status" in one:
            await api.replace(resource, {**made, "status": one["status"]}, subresource="status")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        await asyncio.sleep(0.01)


def test_the_last_byte_takes_the_gate_off_and_adds_the_preference_in_one_patch() -> None:
    async def test() -> None:
        api, there = FakeApi(), World("prestage")
        moment = datetime.datetime.now(datetime.UTC)
        staging = node_cache("a", {DIGEST: "Staging"})
        use = artifact()
        await followed(api, (NODES, node("a", labelled=False)), (NODE_CACHES, staging), (LEASES, lease(0, now=moment)))
        from prestage.kube.resources import ARTIFACTS

        await followed(api, (ARTIFACTS, use), (PODS, gated(annotations=None)))
        retired = list[Step]()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work)
                for work in (there.follow(api), Gates(api, there, retired=retired.append).run(), Places(api, there).run())
            ]

            async def labelled() -> bool:
                return PLACE_LABEL in part(metadata_of(await api.get(NODES, "a")), "labels")

            await until(labelled)
            await asyncio.sleep(0.2)
            assert gates_of(await api.get(PODS, "p", namespace="team-a")) == ["prestage.dev/warm"]
            began_s = asyncio.get_running_loop().time()
            warm = {"status": {"artifacts": [{"digest": DIGEST, "state": "Warm"}]}}
            await api.patch(NODE_CACHES, "a", warm, subresource="status")

            async def free() -> bool:
                return gates_of(await api.get(PODS, "p", namespace="team-a")) == []

            await until(free)
            assert asyncio.get_running_loop().time() - began_s < 5.0, "not by a look now and then"
            seen = await api.get(PODS, "p", namespace="team-a")
            terms = part(seen, "spec", "affinity", "nodeAffinity")["preferredDuringSchedulingIgnoredDuringExecution"]
            [expression] = cast(list[Tree], part(cast(list[Object], terms)[0], "preference")["matchExpressions"])
            assert expression["values"] == [place(await api.get(NODES, "a"))]
            assert [verb for verb, at in api.writes if at[0] is PODS] == ["create", "patch"]
            assert retired[0].verdict.reason is Reason.WARM_NODE
            for task in tasks:
                task.cancel()

    run(test())


def test_ten_pods_do_not_all_see_the_one_free_accelerator_beside_the_warm_files() -> None:
    caches = [node_cache("a", {DIGEST: "Warm"}), node_cache("b", {DIGEST: "Staging"})]
    pods = [gated(f"p{number}") for number in range(3)]
    there = world(node("a", gpus=1), node("b", gpus=1), *caches, artifact(), *pods)
    found = reasons(there)
    assert list(found.values()) == [Reason.WARM_NODE]


def test_a_gate_beside_kueues_is_decided_when_it_is_the_last_and_its_time_begins_then() -> None:
    clock = Clock()
    there = world(
        node("a"), node_cache("a", {DIGEST: "Staging"}, rate=1_000_000_000), artifact(), gated("p", None, KUEUE), clock=clock
    )
    gates = Gates(FakeApi(), there)
    assert gates.steps() == []
    clock.at_s += 1000
    assert gates.steps() == []
    put(there, gated("p"))
    assert gates.steps() == [], "it would be ready soon"
    clock.at_s += 149
    assert gates.steps() == []
    clock.at_s += 2
    assert [step.verdict.reason for step in gates.steps()] == [Reason.TIMED_OUT]


def test_a_new_leader_fails_no_pod_for_the_time_that_it_may_have_been_under_kueues_gate() -> None:
    failing = {"model.prestage.dev/llama": "hf://org/llama@main", "prestage.dev/on-timeout": "Fail"}

    def old(annotations: Mapping[str, str] | None, *gates: Object) -> Tree:
        made = gated("p", annotations, *gates)
        created = (NOW - datetime.timedelta(seconds=7200)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**made, "metadata": {**metadata_of(made), "creationTimestamp": created}}

    staged = node("a"), node_cache("a", {DIGEST: "Staging"}, rate=100_000_000), artifact()
    clock = Clock()
    gates = Gates(FakeApi(), world(*staged, old(failing), clock=clock))
    assert gates.steps() == []
    clock.at_s += 149
    assert gates.steps() == []
    clock.at_s += 2
    assert [step.verdict.decision for step in gates.steps()] == [Decision.FAIL]
    assert reasons(world(*staged, old(None))) == {"p": Reason.TIMED_OUT}, "nothing is lost by releasing it"


def test_a_gate_beside_kueues_goes_at_once_where_it_would_not_help() -> None:
    there = world(artifact(), gated("p", None, KUEUE))
    assert reasons(there) == {}
    put(there, gated("p"))
    assert reasons(there) == {"p": Reason.NO_NODE_FITS}


def test_a_node_that_goes_or_fills_up_releases_at_once() -> None:
    there = world(node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(), gated())
    assert reasons(there) == {}
    busy = pod({}, name="busy", gpus=1, spec={"nodeName": "a"})
    busy["spec"] = {**part(gated(), "spec"), "nodeName": "a", "schedulingGates": []}
    put(there, busy)
    assert reasons(there) == {"p": Reason.NO_ROOM}
    drop(there, busy, node("a"))
    assert reasons(there) == {"p": Reason.NO_NODE_FITS}


def test_on_timeout_fail_fails_the_pod() -> None:
    async def test() -> None:
        api, clock = FakeApi(), Clock()
        asked = gated(annotations={"model.prestage.dev/llama": "hf://org/llama@main", "prestage.dev/on-timeout": "Fail"})
        made = await api.create(PODS, asked)
        there = world(node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(), clock=clock)
        put(there, {**made, "metadata": {**metadata_of(made), "creationTimestamp": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}})
        gates = Gates(api, there)
        assert gates.steps() == []
        clock.at_s += 151
        await gates.take(gates.steps())
        status = part(await api.get(PODS, "p", namespace="team-a"), "status")
        assert (status["phase"], status["reason"]) == ("Failed", "NotWarmInTime")
        assert "prestage.dev/gate-timeout (150 s)" in str(status["message"])

    run(test())


def test_a_patch_meant_for_another_pod_of_that_name_does_nothing() -> None:
    async def test() -> None:
        api = FakeApi()
        await api.create(PODS, gated())
        there = world(artifact(), gated())  # another UID
        gates = Gates(api, there)
        await gates.take(gates.steps())
        assert gates_of(await api.get(PODS, "p", namespace="team-a")) == ["prestage.dev/warm"]

    run(test())


def test_what_the_api_server_does_not_take_is_tried_again_a_little_later() -> None:
    async def test() -> None:
        api, clock = FakeApi(), Clock()
        made = await api.create(PODS, gated())
        there = world(artifact(), clock=clock)
        put(there, made)
        gates = Gates(api, there)
        api.fail = [Unreachable("away")]
        await gates.take(gates.steps())
        assert gates.steps() == []
        clock.at_s += 2.1
        await gates.take(gates.steps())
        assert gates_of(await api.get(PODS, "p", namespace="team-a")) == []
        assert gates.steps() == [], "it was released: its change is on its way"

    run(test())


def test_the_guard_does_nothing_while_somebody_leads_and_takes_all_off_when_nobody_does() -> None:
    for age_s, expected in ((1.0, []), (16.0, [Reason.CONTROLLER_UNWELL])):
        there = world(artifact(), gated(), leader_age_s=age_s)
        guard = Gates(FakeApi(), there, only_when_unwell=True)
        assert [step.verdict.reason for step in guard.steps()] == expected


def test_a_pod_whose_annotations_are_wrong_is_released() -> None:
    there = world(node("a"), artifact(), gated(annotations={"prestage.dev/wait": "Perhaps"}))
    assert reasons(there) == {"p": Reason.NOT_WANTED}


def test_ungate_takes_every_gate_of_ours_off_and_leaves_those_of_others() -> None:
    async def test() -> None:
        api = FakeApi()
        await followed(api, (PODS, gated("a")), (PODS, gated("b", None, KUEUE)), (PODS, pod(name="c")))
        assert await ungate(api) == (2, [])
        left = [gates_of(one) for one in (await api.page(PODS)).items]
        assert left == [[], ["kueue.x-k8s.io/admission"], []]
        assert await ungate(api) == (0, [])

    run(test())


class Counting(Wishes):
    """Of whom it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[str]()

    def of(self, pod: Object) -> Wish:
        self.asked.append(str(metadata_of(pod)["name"]))
        return super().of(pod)


def test_one_change_among_many_pods_is_a_look_at_those_that_it_concerns() -> None:
    async def test() -> None:
        api, took, wishes = FakeApi(), list[float](), Counting()
        there = world(node("a", gpus=300), node_cache("a", {DIGEST: "Staging"}), artifact())
        there.wishes = wishes
        for number in range(250):
            put(there, await api.create(PODS, {**gated(f"p{number}"), "metadata": _of_job(f"p{number}", "another")}))
        put(there, await api.create(PODS, gated("mine")))
        gates = Gates(api, there, reacted=took.append)
        assert len(gates.steps()) == 0
        wishes.asked.clear()
        assert [str(metadata_of(step.pod)["name"]) for step in gates.steps({("team-a", "mine")})] == []
        assert set(wishes.asked) == {"mine"}
        running = asyncio.create_task(gates.run())
        await asyncio.sleep(0.1)
        put(there, node_cache("a", {DIGEST: "Warm"}))
        while gates_of(await api.get(PODS, "mine", namespace="team-a")):
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(took) == 1

    run(test())


def _of_job(name: str, job: str) -> dict[str, object]:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": job, "controller": True}
    return {**cast("dict[str, object]", gated(name)["metadata"]), "ownerReferences": [owner]}


def test_what_only_time_tells_is_found_by_the_look_at_all_and_is_no_answer_to_a_change() -> None:
    async def test() -> None:
        api, clock, took = FakeApi(), Clock(), list[float]()
        made = await api.create(PODS, gated())
        there = world(node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(), clock=clock)
        put(there, {**made, "metadata": {**metadata_of(made), "creationTimestamp": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}})
        running = asyncio.create_task(Gates(api, there, reacted=took.append).run())
        await asyncio.sleep(0.1)
        clock.at_s += 151
        while gates_of(await api.get(PODS, "p", namespace="team-a")):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert took == []

    run(test())


def test_the_room_of_a_pod_that_lands_elsewhere_than_was_thought_is_the_next_ones_at_once() -> None:
    async def test() -> None:
        api = FakeApi()
        there = world(node("a"), node("b"), node_cache("a", {DIGEST: "Warm"}), node_cache("b", {DIGEST: "Staging"}), artifact())
        made = [await api.create(PODS, gated(name)) for name in ("first", "second")]
        put(there, made[0])
        gates, touched = Gates(api, there), there.touched()
        await gates.take(gates.steps())
        put(there, made[1])
        touched.take()
        assert gates.steps() == [], "the room beside the warm files is the first one's"
        landed = await api.get(PODS, "first", namespace="team-a")
        put(there, {**landed, "spec": {**part(landed, "spec"), "nodeName": "b"}})
        concerned = touched.take()
        assert concerned == {("team-a", "first")}
        freed = gates._freed(concerned)
        assert ("team-a", "second") in freed
        assert [step.verdict.reason for step in gates.steps(freed)] == [Reason.WARM_NODE]
        assert gates._freed({("team-a", "second")}) == set()

    run(test())


def test_a_look_at_all_that_is_faster_answers_what_the_others_wait_for() -> None:
    """The first pod lands elsewhere; the look at all, a moment later, gives its room to the second."""

    async def test() -> None:
        api, took = FakeApi(), list[float]()
        there = world(node("a"), node("b"), node_cache("a", {DIGEST: "Warm"}), node_cache("b", {DIGEST: "Staging"}), artifact())
        made = [await api.create(PODS, gated(name)) for name in ("first", "second")]
        put(there, made[0])
        gates, touched = Gates(api, there, reacted=took.append), there.touched()
        await gates.take(gates.steps())
        put(there, made[1])
        began_s = time.monotonic()
        touched.take()
        landed = await api.get(PODS, "first", namespace="team-a")
        put(there, {**landed, "spec": {**part(landed, "spec"), "nodeName": "b"}})
        async with asyncio.TaskGroup() as group:
            await gates._look(None, group, gates._cause(touched, began_s - 1000.0))
        assert not gates_of(await api.get(PODS, "second", namespace="team-a"))
        [took_s] = took
        assert took_s <= time.monotonic() - began_s

    run(test())
