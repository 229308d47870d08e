"""Who may work at once: the most urgent first, waiting pods in room of their own, nobody lost who gave up."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.agent.slots import Slots
from prestage.cacher.transfer.limits import Priority


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_most_urgent_is_next_and_equals_in_their_order() -> None:
    async def scenario() -> list[str]:
        slots, entered = Slots(1, most_waiting=0), list[str]()
        await slots.take(Priority.DECLARED)

        async def enter(name: str, priority: Priority) -> None:
            await slots.take(priority)
            entered.append(name)
            slots.give_back()

        tasks = []
        for name, priority in (
            ("last", Priority.FOLLOW_ON),
            ("second", Priority.DECLARED),
            ("third", Priority.DECLARED),
            ("first", Priority.WAITING_POD),
        ):
            tasks.append(asyncio.create_task(enter(name, priority)))
            await _settle()
        assert entered == []
        slots.give_back()
        await asyncio.gather(*tasks)
        return entered

    assert asyncio.run(scenario()) == ["first", "second", "third", "last"]


def test_waiting_pods_have_room_of_their_own_and_no_more() -> None:
    async def scenario() -> None:
        slots = Slots(1, most_waiting=1)
        await slots.take(Priority.DECLARED)
        async with asyncio.timeout(5):
            await slots.take(Priority.WAITING_POD)
        third = asyncio.create_task(slots.take(Priority.WAITING_POD))
        declared = asyncio.create_task(slots.take(Priority.DECLARED))
        await _settle()
        assert not third.done()
        slots.give_back()
        await _settle()
        assert third.done()
        assert not declared.done()
        slots.give_back()
        slots.give_back()
        await _settle()
        assert declared.done()

    asyncio.run(scenario())


def test_who_gave_up_waiting_takes_no_slot_even_at_the_last_moment() -> None:
    async def scenario() -> None:
        slots = Slots(1, most_waiting=0)
        await slots.take(Priority.DECLARED)
        gives_up = asyncio.create_task(slots.take(Priority.WAITING_POD))
        stays = asyncio.create_task(slots.take(Priority.DECLARED))
        await _settle()
        slots.give_back()  # it is the first one's now, who has not heard of it yet
        gives_up.cancel()
        await _settle()
        assert gives_up.cancelled()
        assert stays.done()
        early = asyncio.create_task(slots.take(Priority.WAITING_POD))
        await _settle()
        early.cancel()
        await _settle()
        slots.give_back()
        async with asyncio.timeout(5):
            await slots.take(Priority.FOLLOW_ON)

    asyncio.run(scenario())


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.booleans()), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_never_more_than_it_may_and_none_forgotten(wishes: list[tuple[Priority, bool]], most: int, most_waiting: int) -> None:
    async def scenario() -> None:
        slots, working, done = Slots(most, most_waiting=most_waiting), list[Priority](), list[int]()

        async def work(number: int, priority: Priority) -> None:
            await slots.take(priority)
            try:
                working.append(priority)
                assert len(working) <= most + most_waiting
                await asyncio.sleep(0)
                done.append(number)
            finally:
                working.remove(priority)
                slots.give_back()

        tasks = [asyncio.create_task(work(number, priority)) for number, (priority, _) in enumerate(wishes)]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(tasks, wishes, strict=True):
            if leaves:
                task.cancel()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [result for result in results if isinstance(result, AssertionError)]
        finished = [number for number, result in enumerate(results) if result is None]
        assert sorted(done) == finished
        async with asyncio.timeout(5):
            for _ in range(most):
                await slots.take(Priority.FOLLOW_ON)

    asyncio.run(scenario())
