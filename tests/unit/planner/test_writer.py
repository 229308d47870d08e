"""NodeCaches are written one at a time for a node, and nobody waits for another node's."""

from __future__ import annotations

import asyncio

from prestage.api.nodes import Action
from prestage.control.planning.writing import Writer, Writes
from prestage.kube.errors import Unreachable
from prestage.kube.ports import Object, Resource, name_of
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi
from prestage.planner.plans import Assignment, NodePlan


class Slow(FakeApi):
    """An apply of `stuck` waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        if name_of(body) == "stuck":
            await self.go_on.wait()
        return await super().apply(resource, body, manager=manager, force=force, subresource=subresource)


def plan_of(node: str, letter: str) -> NodePlan:
    return NodePlan(node, f"{node}-uid", (Assignment(f"sha256:{letter * 64}", Action.STAGE),))


async def written(api: FakeApi) -> dict[str, str]:
    """Node to the letter of what it is to stage."""
    found = {}
    for one in (await api.page(NODE_CACHES)).items:
        spec = one["spec"]
        assert isinstance(spec, dict)
        found[name_of(one)] = spec["artifacts"][0]["digest"][-1]
    return found


async def until(api: FakeApi, wanted: dict[str, str]) -> None:
    while await written(api) != wanted:
        await asyncio.sleep(0.005)


def test_a_node_whose_write_is_stuck_holds_up_no_other_and_gets_the_newest_plan_afterwards() -> None:
    async def test() -> None:
        api, told = Slow(), list[float]()
        done = asyncio.Event()
        writer = Writer(api, done=done.set, reacted=told.append)
        sending = asyncio.create_task(writer.run())
        async with asyncio.timeout(5):
            await writer.write(Writes((plan_of("stuck", "a"),)), since_s=0.0)
            await writer.write(Writes((plan_of("stuck", "b"), plan_of("other", "c"))), since_s=0.0)
            await until(api, {"other": "c"})
            assert writer.sent().keys() == {"stuck", "other"}
            assert not done.is_set()
            api.go_on.set()
            await done.wait()
            assert await written(api) == {"stuck": "a", "other": "c"}
            await writer.write(Writes((plan_of("stuck", "b"),)))
            await until(api, {"stuck": "b", "other": "c"})
        assert len(told) == 2
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(test())


def test_what_was_not_taken_is_not_counted_as_sent_and_asks_for_another_plan() -> None:
    async def test() -> None:
        api, again = FakeApi(), asyncio.Event()
        writer = Writer(api, again=again.set)
        sending = asyncio.create_task(writer.run())
        api.fail.append(Unreachable("down"))
        await writer.write(Writes((plan_of("one", "a"),)))
        async with asyncio.timeout(5):
            await again.wait()
        assert writer.sent() == {}
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(test())
