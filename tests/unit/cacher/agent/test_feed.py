"""Events to many readers: bounded, the newest progress only, a late one told what counts, everyone told the end."""

from __future__ import annotations

import asyncio
import threading

from prestage.cacher.agent.feed import BACKLOG, Feed, Subscription
from prestage.cacher.staging.events import Event


def progress(count: int) -> Event:
    return {"event": "progress", "bytes": count}


async def all_of(subscription: Subscription, heartbeat_s: float = 5) -> list[Event]:
    return [event async for event in subscription.read(heartbeat_s=heartbeat_s)]


def test_a_reader_who_sleeps_gets_the_newest_progress_and_the_last_so_many_events() -> None:
    async def scenario() -> list[Event]:
        feed = Feed(asyncio.get_running_loop())
        slow = feed.subscribe()
        for number in range(3 * BACKLOG):
            feed.publish({"event": "trouble", "number": number})
            feed.publish(progress(number))
        return slow.take()

    seen = asyncio.run(scenario())
    assert len(seen) == BACKLOG + 1
    assert [event["number"] for event in seen[:-1]] == list(range(2 * BACKLOG, 3 * BACKLOG))
    assert seen[-1] == progress(3 * BACKLOG - 1)


def test_the_end_is_never_dropped_and_no_progress_comes_after_it() -> None:
    async def scenario() -> list[Event]:
        feed = Feed(asyncio.get_running_loop())
        slow = feed.subscribe()
        for number in range(2 * BACKLOG):
            feed.publish({"event": "trouble", "number": number})
        feed.publish(progress(1))
        feed.publish({"event": "done"})
        return await all_of(slow)

    seen = asyncio.run(scenario())
    assert seen[-1] == {"event": "done"}
    assert len(seen) == BACKLOG
    assert progress(1) not in seen


def test_who_comes_late_is_told_how_it_was_resolved_how_far_it_is_and_how_it_ended() -> None:
    async def scenario() -> tuple[list[Event], list[Event]]:
        feed = Feed(asyncio.get_running_loop())
        feed.publish({"event": "resolved", "artifact": "a"})
        for number in range(5):
            feed.publish(progress(number))
        feed.publish({"event": "trouble", "message": "passed long ago"})
        halfway = feed.subscribe().take()
        feed.publish({"event": "done"})
        return halfway, await all_of(feed.subscribe())

    halfway, after = asyncio.run(scenario())
    assert halfway == [{"event": "resolved", "artifact": "a"}, progress(4)]
    assert after == [{"event": "resolved", "artifact": "a"}, {"event": "done"}]


def test_a_new_try_forgets_how_far_the_last_one_was_but_not_what_it_is() -> None:
    async def scenario() -> list[Event]:
        feed = Feed(asyncio.get_running_loop())
        for event in ({"event": "resolved"}, progress(7), {"event": "verifying"}, {"event": "error"}):
            feed.publish(dict(event))
        feed.forget_progress()
        return feed.subscribe().take()

    assert asyncio.run(scenario()) == [{"event": "resolved"}]


def test_who_hears_nothing_hears_that_it_lives() -> None:
    async def scenario() -> list[Event]:
        feed = Feed(asyncio.get_running_loop())
        events = feed.subscribe().read(heartbeat_s=0.01)
        seen = [await anext(events), await anext(events)]
        feed.publish({"event": "done"})
        seen += [event async for event in events]
        return [event for event in seen if event["event"] != "alive"] + seen[:2]

    assert asyncio.run(scenario()) == [{"event": "done"}, {"event": "alive"}, {"event": "alive"}]


def test_closing_tells_once_and_the_rest_read_on() -> None:
    async def scenario() -> None:
        left: list[int] = []
        feed = Feed(asyncio.get_running_loop())
        one, two = feed.subscribe(lambda: left.append(feed.readers)), feed.subscribe(lambda: left.append(feed.readers))
        one.close()
        one.close()
        assert left == [1]
        feed.publish({"event": "done"})
        assert await all_of(two) == [{"event": "done"}]
        assert one.take() == []
        two.close()
        assert left == [1, 0]

    asyncio.run(scenario())


def test_threads_publish_in_their_order_and_after_the_end_of_the_loop_without_harm() -> None:
    async def scenario() -> tuple[Feed, list[Event]]:
        feed = Feed(asyncio.get_running_loop())
        reader = feed.subscribe()

        def work() -> None:
            for number in range(100):
                feed.publish_from_thread({"event": "trouble", "number": number})
            feed.publish_from_thread({"event": "done"})

        thread = threading.Thread(target=work)
        thread.start()
        seen = await all_of(reader)
        thread.join()
        return feed, seen

    feed, seen = asyncio.run(scenario())
    assert [event.get("number") for event in seen] == [*range(100), None]
    feed.publish_from_thread({"event": "trouble"})
