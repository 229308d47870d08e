"""Pods that wait for one artifact: one stage, followed a while longer than anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from prestage.cacher.errors import Denied, Full, PrestageError, Unavailable
from prestage.node.csi import waiting
from prestage.node.csi.waiting import Stagings, ended


@dataclass
class Agent:
    """Stages when told to."""

    outcomes: list[PrestageError] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0
    left: int = 0

    async def stage(self, artifact: str) -> AsyncGenerator[dict[str, object]]:
        self.begun += 1
        try:
            yield {"event": "progress", "bytes": 1, "total": 2, "bytes_per_s": 0, "source": "origin"}
            if self.outcomes:
                raise self.outcomes.pop(0)
            await self.go_on.wait()
            yield {"event": "done"}
        finally:
            self.left += 1


def run(check: Callable[[Agent, Stagings], Awaitable[None]], *, linger_s: float = 60.0) -> None:
    async def main() -> None:
        agent = Agent()
        stagings = Stagings(agent, linger_s=linger_s)
        try:
            await check(agent, stagings)
        finally:
            await stagings.close()
        assert agent.begun == agent.left

    asyncio.run(main())


def test_two_who_wait_are_one_stage_and_who_leaves_takes_nothing_back() -> None:
    async def check(agent: Agent, stagings: Stagings) -> None:
        with stagings.following("a") as one, stagings.following("a") as two:
            assert one is two
            assert not await ended(one, 0.02, who="a")
            assert str(one.progress) == "Staging 50 %, from origin"
        with stagings.following("a") as again:  # the kubelet's next call
            assert again is one
            agent.go_on.set()
            assert await ended(again, 5, who="a")
        assert agent.begun == 1

    run(check)


def test_when_nobody_comes_back_it_is_taken_back() -> None:
    async def check(agent: Agent, stagings: Stagings) -> None:
        with stagings.following("a") as one:
            assert not await ended(one, 0.0, who="a")
        await asyncio.sleep(0.05)
        assert one.task is not None
        assert one.task.cancelled()

    run(check, linger_s=0.01)


def test_what_may_pass_is_asked_for_again_and_what_will_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AGAIN_S", 0.0)

    async def check(agent: Agent, stagings: Stagings) -> None:
        agent.outcomes = [Unavailable("not yet"), Unavailable("not yet"), Denied("never")]
        with stagings.following("a") as one, pytest.raises(Denied, match="never"):
            await ended(one, 5, who="a")
        assert agent.begun == 3
        with stagings.following("a") as again:  # a new try
            agent.go_on.set()
            assert again is not one
            assert await ended(again, 5, who="a")

    run(check)


def test_no_room_is_told_each_pod_soon_once_and_it_waits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FULL_S", 0.02)

    class Crowded(Agent):
        async def stage(self, artifact: str) -> AsyncGenerator[dict[str, object]]:
            self.begun += 1
            try:
                yield {"event": "trouble", "kind": Full.kind, "message": "no room for 1 GB; again in 5 s"}
                await self.go_on.wait()
                yield {"event": "done"}
            finally:
                self.left += 1

    async def check() -> None:
        agent = Crowded()
        stagings = Stagings(agent)
        for who in ("first", "second"):
            with stagings.following("a") as one, pytest.raises(Full, match="no room for 1 GB"):
                await ended(one, 3600, who=who)
        with stagings.following("a") as one:
            with pytest.raises(Full):
                await ended(one, 0.1, who="first")  # at its call's end
            asyncio.get_running_loop().call_later(0.05, agent.go_on.set)
            assert await ended(one, 3600, who="first"), "room that comes is used at once"
        assert agent.begun == agent.left == 1
        await stagings.close()

    asyncio.run(asyncio.wait_for(check(), 20))
