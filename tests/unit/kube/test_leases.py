"""Leader election: who takes, who waits, and that two never lead at once."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable

import pytest

from prestage.cacher.errors import Misconfigured
from prestage.kube.errors import Unreachable
from prestage.kube.leases import Election, Seen, Step, Terms, decide, observe, record, renewed_ago_s
from prestage.kube.ports import Object, metadata_of
from prestage.kube.resources import LEASES
from prestage.kube.testing import FakeApi

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
TERMS = Terms(3.0, 0.5, 0.05)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def spec_of(lease: Object) -> dict[str, object]:
    found = lease["spec"]
    assert isinstance(found, dict)
    return found


def lease(holder: str, version: str = "1", seconds: object = 15) -> Object:
    return {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds}}


def test_a_lease_is_taken_when_it_is_free_or_nobody_was_seen_to_renew_it() -> None:
    seen = Seen("other", 15.0, "1", at_s=100.0)
    assert decide(None, "me", 0.0) is Step.TAKE
    assert decide(Seen("", 15.0, "1", 100.0), "me", 100.0) is Step.TAKE
    assert decide(Seen("me", 15.0, "1", 0.0), "me", 1000.0) is Step.RENEW
    assert decide(seen, "me", 114.9) is Step.WAIT
    assert decide(seen, "me", 115.0) is Step.TAKE


def test_any_change_of_the_record_is_a_sign_of_life_and_none_is_none() -> None:
    first = observe(lease("other"), None, 100.0)
    assert observe(lease("other"), first, 110.0).at_s == 100.0
    assert observe(lease("other", "2"), first, 110.0).at_s == 110.0
    assert observe(lease("other", "1", "garbage"), None, 0.0).lease_s == 1.0


def test_transitions_count_changes_of_hands() -> None:
    def held(before: Object | None, me: str) -> dict[str, object]:
        return spec_of(record(before, me, name="l", namespace="n", now=NOW, terms=Terms()))

    first = held(None, "a")
    assert (first["holderIdentity"], first["leaseTransitions"], first["leaseDurationSeconds"]) == ("a", 0, 15)
    again = held({"metadata": {}, "spec": {**first, "acquireTime": "then"}}, "a")
    assert (again["leaseTransitions"], again["acquireTime"]) == (0, "then")
    other = held({"metadata": {}, "spec": {**first, "acquireTime": "then"}}, "b")
    assert (other["leaseTransitions"], other["acquireTime"]) == (1, "2026-01-02T03:04:05.000000Z")


def test_terms_that_let_two_lead_are_refused() -> None:
    with pytest.raises(Misconfigured, match="retry < renew < lease"):
        Terms(lease_s=10, renew_s=10, retry_s=2)


def test_how_long_ago_it_was_renewed_says_whether_the_leader_is_well() -> None:
    held = record(None, "a", name="l", namespace="n", now=NOW, terms=Terms())
    assert renewed_ago_s(held, NOW + datetime.timedelta(seconds=16)) == 16.0
    assert renewed_ago_s({"spec": {**spec_of(held), "holderIdentity": ""}}, NOW) is None
    assert renewed_ago_s({"spec": {"holderIdentity": "a", "renewTime": "yesterday"}}, NOW) is None


class Watchmen:
    """Counts who leads."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.ever: list[str] = []

    def lead(self, who: str) -> Callable[[], Awaitable[None]]:
        async def leading() -> None:
            assert not self.now, "two lead"
            self.now.add(who)
            self.ever.append(who)
            try:
                await asyncio.Event().wait()
            finally:
                self.now.discard(who)

        return leading


def election(api: FakeApi, me: str) -> Election:
    return Election(api, name="planner", namespace="here", me=me, terms=TERMS)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def test_the_second_leads_as_soon_as_the_first_lets_go() -> None:
    async def test() -> None:
        api, men = FakeApi(), Watchmen()
        first = asyncio.create_task(election(api, "a").run(men.lead("a")))
        await until(lambda: men.now == {"a"})
        second = asyncio.create_task(election(api, "b").run(men.lead("b")))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not men.now, "cancelled means awaited"
        await until(lambda: men.now == {"b"})
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        held = await api.get(LEASES, "planner", namespace="here")
        assert (spec_of(held)["holderIdentity"], spec_of(held)["leaseTransitions"]) == ("", 1)

    run(test())


def test_a_leader_that_takes_its_time_to_end_holds_the_lease_until_it_has_ended_however_often_it_is_told_to() -> None:
    async def test() -> None:
        api, began, may_end, ended = FakeApi(), asyncio.Event(), asyncio.Event(), list[str]()

        async def slowly() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
                held = await api.get(LEASES, "planner", namespace="here")
                ended.append(str(spec_of(held)["holderIdentity"]))

        leader = asyncio.create_task(election(api, "a").run(slowly))
        await began.wait()
        for _ in range(3):
            leader.cancel()
            await asyncio.sleep(0.01)
        may_end.set()
        await asyncio.gather(leader, return_exceptions=True)
        held = await api.get(LEASES, "planner", namespace="here")
        assert (ended, spec_of(held)["holderIdentity"]) == (["a"], "")

    run(test())


def test_a_renewal_that_is_cut_off_after_it_was_written_does_not_keep_the_lease() -> None:
    class Slow(FakeApi):
        written = 0

        async def replace(self, *args: object, **more: object) -> Object:
            answer = await super().replace(*args, **more)  # type: ignore[arg-type]  # passed on
            self.written += 1
            if self.written == 1:
                await asyncio.sleep(60)  # the answer is on its way
            return answer

    async def test() -> None:
        api, men = Slow(), Watchmen()
        leader = asyncio.create_task(election(api, "a").run(men.lead("a")))
        await until(lambda: api.written == 1)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        held = await api.get(LEASES, "planner", namespace="here")
        assert spec_of(held)["holderIdentity"] == ""

    run(test())


def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    class Cut(FakeApi):
        cut_off = False

        async def get(self, *args: object, **more: object) -> Object:
            if self.cut_off:
                raise Unreachable("cut off")
            return await super().get(*args, **more)  # type: ignore[arg-type]  # passed on

    async def test() -> None:
        api, men = Cut(), Watchmen()
        other = FakeApi()
        other.__dict__.update({key: value for key, value in api.__dict__.items() if key != "fail"})  # the same store
        first = asyncio.create_task(election(api, "a").run(men.lead("a")))
        await until(lambda: men.now == {"a"})
        second = asyncio.create_task(election(other, "b").run(men.lead("b")))
        api.cut_off = True
        await first
        assert men.ever[0] == "a"
        await until(lambda: men.now == {"b"})
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    run(test())


def test_a_leader_whose_lease_somebody_took_stops() -> None:
    async def test() -> None:
        api, men = FakeApi(), Watchmen()
        first = asyncio.create_task(election(api, "a").run(men.lead("a")))
        await until(lambda: men.now == {"a"})
        stolen = {"spec": {"holderIdentity": "thief"}}
        await api.patch(LEASES, "planner", stolen, namespace="here")
        await first
        held = await api.get(LEASES, "planner", namespace="here")
        assert spec_of(held)["holderIdentity"] == "thief", "what is not ours is not let go of"

    run(test())


def test_what_the_leader_raises_comes_out_and_the_lease_is_free() -> None:
    async def failing() -> None:
        raise Unreachable("its own trouble")

    async def test() -> None:
        api = FakeApi()
        with pytest.raises(Unreachable, match="its own trouble"):
            await election(api, "a").run(failing)
        held = await api.get(LEASES, "planner", namespace="here")
        assert spec_of(held)["holderIdentity"] == ""
        assert metadata_of(held)["name"] == "planner"

    run(test())
