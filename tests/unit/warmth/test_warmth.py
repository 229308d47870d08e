"""The Warm condition and its Events: what is said, when, and how seldom."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, GATE, KUEUE, NOW, OTHER, artifact, node, node_cache, pod
from pods.worlds import Clock, put, world

from prestage.api.brokerage import Refusal
from prestage.api.nodes import ErrorClass
from prestage.control.demand.records import Line
from prestage.control.gates.world import World
from prestage.control.podspec import part
from prestage.control.warmth.condition import Reason, Sources, told
from prestage.control.warmth.reporting import Warmth, condition_of
from prestage.kube.errors import Unreachable
from prestage.kube.events import Recorder
from prestage.kube.ports import Object, PatchType, Resource, metadata_of, name_of
from prestage.kube.resources import EVENTS, PODS
from prestage.kube.testing import FakeApi


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


class WithConditions(FakeApi):
    """Strategic merges of conditions, by type, as the real one does (tests/cluster/admission/test_gates_and_conditions.py)."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object | list[Object],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        type: PatchType = PatchType.MERGE,  # noqa: A002
    ) -> Object:
        if type is PatchType.STRATEGIC and isinstance(body, dict):
            there = await self.get(resource, name, namespace=namespace)
            new = cast(list[Object], part(body, "status")["conditions"])
            old = cast(list[Object], part(there, "status").get("conditions") or [])
            kept = [one for one in old if one["type"] not in {two["type"] for two in new}]
            body, type = {"status": {"conditions": [*kept, *new]}}, PatchType.MERGE  # noqa: A001
        return await super().patch(resource, name, body, namespace=namespace, subresource=subresource, type=type)


def aged(seconds: float, **more: Any) -> dict[str, object]:
    created = (NOW - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return pod(gpus=1, creationTimestamp=created, **more)


def bound(where: str, seconds: float = 1.0) -> dict[str, object]:
    made = aged(seconds)
    return {**made, "spec": {**cast("dict[str, object]", made["spec"]), "nodeName": where}}


def seen(there: World) -> Object:
    """The pod, as the mirror has it."""
    [found] = there.pods()
    return found


def said(there: World, asked: Object, sources: Sources | None = None) -> tuple[Reason, str]:
    found = told(asked, there, sources)
    assert found is not None
    return found.reason, found.message


def test_a_pod_without_models_is_told_nothing() -> None:
    assert told(pod({}), world()) is None


def test_each_state_has_its_words() -> None:
    caches = {name: node_cache(name, {DIGEST: state}) for name, state in {"a": "Warm", "b": "Staging", "c": "Warm"}.items()}
    assert said(world(), aged(1)) == (Reason.NOT_RESOLVED, "Resolving hf://org/llama@main")
    assert said(world(artifact()), aged(1)) == (Reason.STAGING, "Resolved; no node has begun to stage it yet")
    assert said(world(artifact(), caches["b"]), aged(1)) == (Reason.STAGING, "Staging on b, about 10 s left")
    assert said(world(artifact(), *caches.values()), aged(1)) == (Reason.WARM, "Warm on 2 nodes")
    assert said(world(artifact(), *caches.values()), bound("a")) == (Reason.WARM, "Warm on a")
    assert said(world(artifact(), *caches.values()), bound("b"))[0] is Reason.STAGING


def test_a_pod_that_was_cold_keeps_why_in_its_condition_and_one_that_was_not_says_nothing() -> None:
    asked = list[tuple[str, str, str, float]]()

    def past(*of: object) -> str:
        asked.append(cast("tuple[str, str, str, float]", of))
        return "nobody had said it"

    there = world(artifact(), node_cache("a", {DIGEST: "Warm"}))
    cold = said(there, bound("a", 43), Sources(past=past))
    assert cold == (Reason.WARM, "Warm on a, 43 s after it was made: nobody had said it")
    assert asked == [(DIGEST, "a", "team-a", NOW.timestamp() - 43)]
    assert said(there, bound("a", 3), Sources(past=past))[1] == "Warm on a"
    assert said(there, aged(43), Sources(past=past))[1] == "Warm on 1 node", "it is on no node yet"
    assert said(there, bound("a", 43))[1] == "Warm on a", "nobody knows"


def test_progress_and_source_are_said_where_they_are_known() -> None:
    cache = node_cache("a", {DIGEST: "Staging"})
    cache["spec"] = {"nodeUID": "u", "artifacts": [{"digest": DIGEST, "action": "Stage", "sources": [{"type": "Origin"}]}]}
    assert said(world(artifact(), cache), aged(1))[1] == "Staging on a, about 10 s left, from origin"
    [entry] = cast("list[dict[str, object]]", part(cache, "status")["artifacts"])
    for fetched, percent in ((0, 0), ("418M", 41), (10**9, 99), (2 * 10**9, 99)):
        entry["fetched"] = fetched
        words = said(world(artifact(), cache), aged(1))[1]
        assert words == f"Staging {percent} % on a, about 10 s left, from origin"


def test_failures_say_class_code_and_what_to_do() -> None:
    failed = node_cache("a", {DIGEST: "Failed"}, code="NoCredentials")
    reason, message = said(world(artifact(), failed), aged(1))
    assert reason is Reason.DENIED
    assert message.startswith("Staging failed on a: Denied, NoCredentials; ")
    assert "prestage.dev/credentials" in message
    both = world(artifact(), failed, node_cache("b", {DIGEST: "Staging"}))
    assert said(both, aged(1))[0] is Reason.STAGING, "another node is at it"
    assert said(both, bound("a"))[0] is Reason.DENIED


def test_what_the_broker_refused_is_told_in_its_words() -> None:
    def refusals(line: Line) -> Refusal | None:
        assert (line.hash, line.alias) == ("-", "llama")
        return Refusal(error_class=ErrorClass.DENIED, code="NoGrant", message="no access to org/llama", hint="ask for it")

    assert said(world(), aged(1), Sources(refusals=refusals)) == (Reason.DENIED, "llama: no access to org/llama; ask for it")


def test_mistakes_that_passed_while_admission_was_away_are_told() -> None:
    reason, message = said(world(), pod({"model.prestage.dev/a": "ref:a", "prestage.dev/layot": "x"}))
    assert reason is Reason.MISCONFIGURED
    assert "prestage.dev/layot: there is no such annotation; write for example" in message


def test_being_late_is_told_with_its_cause() -> None:
    clock = Clock()
    slow = world(artifact(size=100_000_000_000), node_cache("a", {DIGEST: "Staging"}), aged(1), clock=clock)
    found = told(seen(slow), slow)
    assert found is not None
    assert found.late_s is not None
    assert round(found.late_s) == 851
    assert found.because == "100.0 GB take longer at the rate of a"
    there = world(artifact(), node_cache("a", {DIGEST: "Warm"}), aged(1), clock=clock)
    clock.at_s += 157
    found = told(seen(there), there)
    assert found is not None
    assert found.late_s == 8.0


def test_the_time_under_kueues_gate_makes_nobody_late_nor_what_a_new_leader_did_not_see() -> None:
    def late_s(there: World) -> float | None:
        found = told(seen(there), there)
        assert found is not None
        return found.late_s

    queued, alone = aged(7200, spec={"schedulingGates": [KUEUE, GATE]}), aged(7200, spec={"schedulingGates": [GATE]})
    clock = Clock()
    there = world(artifact(size=100_000_000_000), node_cache("a", {DIGEST: "Staging"}), queued, clock=clock)
    assert late_s(there) is None, "its time has not begun"
    there = world(artifact(), node_cache("a", {DIGEST: "Staging"}), queued, clock=clock)
    clock.at_s += 100
    put(there, alone)
    assert late_s(there) is None
    put(there, node_cache("a", {DIGEST: "Warm"}))
    clock.at_s += 149
    assert late_s(there) is None
    clock.at_s += 2
    assert late_s(there) == 1.0
    for state in ("Staging", "Warm"):
        assert late_s(world(artifact(), node_cache("a", {DIGEST: state}), alone, clock=clock)) is None, "another leader's time"


async def life(clock: Clock, *states: str, age_s: float = 5) -> tuple[WithConditions, list[str]]:
    """A pod through the states of its artifact on one node; the notes of its Events."""
    api, there = WithConditions(), world(node("a"), artifact(), clock=clock)
    recorder = Recorder(api, controller="test", instance="me")
    sending = asyncio.create_task(recorder.run())
    warmth = Warmth(api, there, recorder)
    made = await api.create(PODS, aged(age_s))
    created = metadata_of(aged(age_s))["creationTimestamp"]
    for state in states:
        put(there, node_cache("a", {DIGEST: state}))
        stored = await api.get(PODS, "p", namespace="team-a")
        put(there, {**stored, "metadata": {**metadata_of(stored), "creationTimestamp": created}})
        await warmth.look()
        await warmth.look()
    await recorder.drained()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert name_of(made) == "p"
    return api, [str(one["note"]) for one in (await api.page(EVENTS)).items]


def test_a_life_costs_a_write_for_each_change_and_an_event() -> None:
    async def test() -> None:
        api, notes = await life(Clock(), "Pending", "Staging", "Warm", "Warm")
        assert sorted(notes) == ["Staging on a, about 10 s left", "Warm on 1 node"]
        condition = condition_of(await api.get(PODS, "p", namespace="team-a"))
        assert (condition["status"], condition["reason"], condition["message"]) == ("True", "Warm", "Warm on 1 node")
        assert len(api.writes) == 1 + 2 + 2, "create, two conditions, two events"

    run(test())


def test_words_alone_are_written_once_more_and_not_again() -> None:
    async def test() -> None:
        clock = Clock()
        api, there = (
            WithConditions(),
            world(node("a"), artifact(size=50_000_000_000), node_cache("a", {DIGEST: "Staging"}), clock=clock),
        )
        warmth = Warmth(api, there, Recorder(api, controller="test", instance="me"))
        await api.create(PODS, aged(5))
        put(there, aged(5))
        for _ in range(20):
            await warmth.look()
            clock.at_s += 10
        assert len([verb for verb, at in api.writes if at[0] is PODS and verb == "patch"]) == 2

    run(test())


def test_what_the_api_server_does_not_take_is_tried_again_a_little_later() -> None:
    async def test() -> None:
        clock = Clock()
        api, there = WithConditions(), world(node("a"), artifact(), node_cache("a", {DIGEST: "Warm"}), clock=clock)
        await api.create(PODS, aged(1))
        put(there, aged(1))
        warmth = Warmth(api, there, Recorder(api, controller="test", instance="me"))
        api.fail = [Unreachable("away")]
        for _ in range(3):
            await warmth.look()
        assert len(api.writes) == 1
        clock.at_s += 11
        await warmth.look()
        assert condition_of(await api.get(PODS, "p", namespace="team-a"))["status"] == "True"

    run(test())


def test_a_new_leader_does_not_say_again_what_stands_there() -> None:
    async def test() -> None:
        api, there = WithConditions(), world(node("a"), artifact(), node_cache("a", {DIGEST: "Warm"}))
        await api.create(PODS, aged(1))
        told_already = aged(1)
        told_already["status"] = {"conditions": [{"type": "prestage.dev/Warm", "status": "True", "reason": "Warm"}]}
        put(there, told_already)
        await Warmth(api, there, Recorder(api, controller="test", instance="me")).look()
        assert len(api.writes) == 1

    run(test())


def test_what_passes_is_not_worth_a_write_at_first_and_resolving_never_an_event() -> None:
    async def test() -> None:
        staging = [artifact(), node_cache("a", {DIGEST: "Staging"})]
        for age, objects, writes in ((1, [], 0), (5, [], 1), (1, staging, 0), (5, staging, 2)):
            api, there = WithConditions(), world(*objects)
            recorder = Recorder(api, controller="test", instance="me")
            sending = asyncio.create_task(recorder.run())
            await api.create(PODS, aged(age))
            put(there, aged(age))
            await Warmth(api, there, recorder).look()
            await recorder.drained()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            assert len(api.writes) - 1 == writes

    run(test())


def test_a_pod_that_is_served_at_once_costs_a_condition_and_an_event() -> None:
    async def test() -> None:
        api, notes = await life(Clock(), "Pending", "Staging", "Warm", age_s=1)
        assert notes == ["Warm on 1 node"]
        assert len(api.writes) == 1 + 1 + 1, "create, condition, event"

    run(test())


class Slow(WithConditions):
    """A patch waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.waiting = asyncio.Event(), 0

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object | list[Object],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        type: PatchType = PatchType.MERGE,  # noqa: A002
    ) -> Object:
        self.waiting += 1
        await self.go_on.wait()
        return await super().patch(resource, name, body, namespace=namespace, subresource=subresource, type=type)


def test_a_slow_api_server_is_told_what_is_true_when_its_turn_comes() -> None:
    async def test() -> None:
        api, there = Slow(), world(node("a"), artifact(), node_cache("a", {DIGEST: "Staging"}))
        warmth = Warmth(api, there, Recorder(api, controller="test", instance="me"))
        for number in range(20):
            made = {**aged(5), "metadata": {**metadata_of(aged(5)), "name": f"p{number}"}}
            await api.create(PODS, made)
            put(there, made)
        telling = asyncio.create_task(warmth.look())
        while not api.waiting:
            await asyncio.sleep(0)
        under_way = api.waiting
        assert under_way < 20
        put(there, node_cache("a", {DIGEST: "Warm"}))
        api.go_on.set()
        await telling
        reasons = [condition_of(one).get("reason") for one in (await api.page(PODS)).items]
        assert sorted(map(str, reasons)) == ["Staging"] * under_way + ["Warm"] * (20 - under_way)
        await warmth.look()
        assert {condition_of(one)["reason"] for one in (await api.page(PODS)).items} == {"Warm"}
        assert len([verb for verb, at in api.writes if verb == "patch"]) == 20 + under_way

    run(test())


def test_a_change_is_told_without_waiting_for_a_look_at_all() -> None:
    async def test() -> None:
        api, told_after = WithConditions(), list[float]()
        there = world(node("a"), artifact(), node_cache("a", {DIGEST: "Staging"}))
        await api.create(PODS, aged(5))
        put(there, aged(5))
        warmth = Warmth(api, there, Recorder(api, controller="test", instance="me"), reacted=told_after.append)
        running = asyncio.create_task(warmth.run())
        for state in ("Staging", "Warm"):
            put(there, node_cache("a", {DIGEST: state}))
            while condition_of(await api.get(PODS, "p", namespace="team-a")).get("reason") != state:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(told_after) == 2
        assert all(0 <= seconds < 5 for seconds in told_after)

    run(test())


@given(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["Pending", "Staging", "Warm", "Failed", "Releasing"])),
    st.sampled_from(["", "a", "z"]),
    st.booleans(),
)
def test_any_mixture_of_states_has_words_and_true_only_where_it_is(states: dict[str, str], where: str, both: bool) -> None:
    caches = [node_cache(name, {DIGEST: state, **({OTHER: "Warm"} if both else {})}) for name, state in states.items()]
    asked = bound(where) if where else aged(1)
    found = told(asked, world(artifact(), *caches))
    assert found is not None
    assert found.message
    holders = [where] if where else list(states)
    assert found.warm == any(states.get(name) == "Warm" for name in holders)
