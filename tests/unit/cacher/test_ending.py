"""What was begun is waited for, though who began it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from prestage.cacher.ending import cancellable, to_its_end


def test_what_comes_of_it_is_told() -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def both() -> str:
        with pytest.raises(ValueError, match="no"):
            await to_its_end(fails())
        return await to_its_end(asyncio.sleep(0, "yes"))

    assert asyncio.run(both()) == "yes"


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("nobody is told")])
def test_cancelled_it_ends_after_the_work_and_says_only_that(error: Exception | None, times: int) -> None:
    async def cancelled() -> list[str]:
        seen, go = list[str](), asyncio.Event()

        async def work() -> None:
            await go.wait()
            seen.append("worked")
            if error is not None:
                raise error

        async def caller() -> None:
            try:
                await to_its_end(work())
            finally:
                seen.append("ended")

        running = asyncio.ensure_future(caller())
        await asyncio.sleep(0)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        seen.append("still there")
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        return seen

    assert asyncio.run(cancelled()) == ["still there", "worked", "ended"]


def test_a_group_that_ends_for_an_error_loses_no_cancel() -> None:
    async def cancelled() -> list[str]:
        seen, ending = list[str](), asyncio.Event()

        async def lingers() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await to_its_end(asyncio.sleep(0.01))
                seen.append("ended")

        async def fails() -> None:
            raise ValueError("no")

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(lingers())
                tasks.create_task(fails())

        async def caller() -> None:
            try:
                await cancellable(group())
            except* ValueError:
                seen.append("another attempt")

        running = asyncio.ensure_future(caller())
        await ending.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return seen

    assert asyncio.run(cancelled()) == ["ended"]


def test_what_comes_of_it_and_that_it_was_cancelled_itself_is_told() -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def ended() -> None:
        raise asyncio.CancelledError

    async def all_three() -> str:
        with pytest.raises(ValueError, match="no"):
            await cancellable(fails())
        with pytest.raises(asyncio.CancelledError):
            await cancellable(ended())
        return await cancellable(asyncio.sleep(0, "yes"))

    assert asyncio.run(all_three()) == "yes"
