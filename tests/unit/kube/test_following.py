"""List and watch over the fake: every change once and in order, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.replay import Replay
from prestage.cacher.errors import PrestageError
from prestage.kube.answers import Answer, Backoff, Lines, asked_s, error_of, watch_event
from prestage.kube.contract import config_map
from prestage.kube.errors import Conflict, Forbidden, Gone, Invalid, Missing, TooMany, Unreachable
from prestage.kube.following import Follower, Pace, after
from prestage.kube.mirror import Appeared, Changed, Mirror, Synced, Vanished
from prestage.kube.ports import (
    Happening,
    Resource,
    ResourceVersion,
    Selection,
    WatchEvent,
    metadata_of,
    name_of,
    uid_of,
    version_of,
)
from prestage.kube.resources import CONFIG_MAPS, PODS
from prestage.kube.testing import FakeApi

QUICK = Pace(Backoff(0.001, 0.01), (0.05, 0.2))
RV = ResourceVersion("7")


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


@asynccontextmanager
async def following(api: FakeApi, selection: Selection = Selection("here")) -> AsyncIterator[tuple[Follower, Replay]]:  # noqa: B008
    follower, replay = Follower(api, CONFIG_MAPS, selection, pace=QUICK), Replay()

    async def follow() -> None:
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                replay.take(change)

    task = asyncio.create_task(follow())
    try:
        yield follower, replay
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


async def truth(api: FakeApi) -> dict[str, str]:
    return {name_of(one): version_of(one) for one in (await api.page(CONFIG_MAPS, Selection("here"))).items}


def known(replay: Replay) -> dict[str, str]:
    return {name: version_of(one) for name, one in replay.known.items()}


def test_what_is_there_appears_then_the_copy_is_whole_then_what_happens() -> None:
    async def test() -> None:
        api = FakeApi()
        await api.create(CONFIG_MAPS, config_map("here", "a"))
        async with following(api) as (follower, replay):
            await until(lambda: any(isinstance(one, Synced) for one in replay.told))
            await api.patch(CONFIG_MAPS, "a", {"data": {"k": "v"}}, namespace="here")
            await api.create(CONFIG_MAPS, config_map("there", "b"))
            await api.delete(CONFIG_MAPS, "a", namespace="here")
            await until(lambda: len(replay.told) == 4)
        assert [type(one) for one in replay.told] == [Appeared, Synced, Changed, Vanished]
        assert (follower.lists, len(follower.mirror)) == (1, 0)

    run(test())


def test_a_cut_watch_goes_on_where_it_was_without_listing_again() -> None:
    async def test() -> None:
        api = FakeApi()
        async with following(api) as (follower, replay):
            for number in range(20):
                await api.create(CONFIG_MAPS, config_map("here", f"a{number}"))
                if number % 3 == 0:
                    api.cut()
                    await asyncio.sleep(0)
            await until(lambda: len(replay.known) == 20)
        assert follower.lists == 1

    run(test())


def test_what_was_forgotten_meanwhile_is_told_by_the_next_list() -> None:
    async def test() -> None:
        api = FakeApi()
        for name in ("stays", "goes", "changes", "is another"):
            await api.create(CONFIG_MAPS, config_map("here", name.replace(" ", "-")))
        async with following(api) as (follower, replay):
            await until(lambda: len(replay.told) == 5)
            api.fail = [Unreachable("down")] * 3
            api.cut()
            await api_quietly(api)
            api.compact()
            await until(lambda: follower.lists == 2)
            kinds = sorted((type(one).__name__, name_of(one.object)) for one in replay.told[5:] if not isinstance(one, Synced))
            assert kinds == [("Appeared", "is-another"), ("Changed", "changes"), ("Vanished", "goes"), ("Vanished", "is-another")]
            assert known(replay) == await truth(api)

    async def api_quietly(api: FakeApi) -> None:
        failing, api.fail = api.fail, []
        await api.delete(CONFIG_MAPS, "goes", namespace="here")
        await api.patch(CONFIG_MAPS, "changes", {"data": {"k": "v"}}, namespace="here")
        await api.delete(CONFIG_MAPS, "is-another", namespace="here")
        await api.create(CONFIG_MAPS, config_map("here", "is-another"))
        api.fail = failing

    run(test())


class Forgetful(FakeApi):
    """Each watch is from too long ago, but those that come after `patience` of them."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience

    async def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        if self.patience > 0:
            self.patience -= 1
            raise Gone("too old resource version")
        async with aclosing(super().watch(resource, selection, since, lasting_s=lasting_s)) as events:
            async for one in events:
                yield one


def test_a_server_that_forgets_at_once_is_listed_at_ever_longer_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()

    async def test() -> None:
        pause = asyncio.sleep

        async def sleep(delay_s: float) -> None:
            slept.append(delay_s)
            await pause(0)

        api = Forgetful(8)
        await api.create(CONFIG_MAPS, config_map("here", "a"))
        follower = Follower(api, CONFIG_MAPS, Selection("here"), pace=Pace(Backoff(0.25, 10.0)), draw=lambda: 1.0)
        with monkeypatch.context() as patched:
            patched.setattr("prestage.kube.following.asyncio.sleep", sleep)
            async with aclosing(follower.changes()) as changes:
                async for change in changes:
                    if isinstance(change, Synced) and not api.patience:
                        break
        assert follower.lists == 9

    run(test())
    assert slept == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0], "the first list follows at once"


@pytest.mark.parametrize("refusal", [Unreachable("down"), TooMany("slow"), Forbidden("no"), Missing("no such kind"), Gone("old")])
def test_a_refused_list_is_asked_for_again(refusal: PrestageError) -> None:
    async def test() -> None:
        api = FakeApi()
        api.fail = [refusal] * 7
        await_created = config_map("here", "a")
        async with following(api) as (_, replay):
            await until(lambda: not api.fail)
            await api.create(CONFIG_MAPS, await_created)
            await until(lambda: "a" in replay.known)

    run(test())


def test_a_list_longer_than_a_page_is_whole() -> None:
    async def test() -> None:
        api = FakeApi()
        for number in range(1203):
            await api.create(CONFIG_MAPS, config_map("here", f"a{number}"))
        async with following(api) as (follower, replay):
            await until(lambda: Synced() in replay.told)
        assert (len(replay.known), follower.lists) == (1203, 1)

    run(test())


@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_nothing_is_lost_or_told_twice_in_any_weather(chance: random.Random) -> None:
    async def test() -> None:
        api = FakeApi()
        async with following(api) as (_, replay):
            for _ in range(60):
                await weather(api, chance)
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            api.fail = []
            expected = await truth(api)
            await until(lambda: known(replay) == expected)

    async def weather(api: FakeApi, chance: random.Random) -> None:
        name = f"a{chance.randrange(4)}"
        failing, api.fail = api.fail, []
        match chance.choice(["create", "patch", "delete", "cut", "compact", "fail"]):
            case "create" if name not in await truth(api):
                await api.create(CONFIG_MAPS, config_map("here", name))
            case "patch" if name in await truth(api):
                await api.patch(CONFIG_MAPS, name, {"data": {"k": str(chance.random())}}, namespace="here")
            case "delete" if name in await truth(api):
                await api.delete(CONFIG_MAPS, name, namespace="here")
            case "cut":
                api.cut()
            case "compact":
                api.compact()
            case "fail":
                failing.append(chance.choice([Unreachable("down"), TooMany("slow"), Gone("old")]))
        api.fail = failing

    run(test())


def test_after_a_watch_it_goes_on_at_once_waits_or_lists_again() -> None:
    def following(failure: Exception | None, fruitless: int) -> tuple[bool, float]:
        got = after(failure, since=RV, fruitless=fruitless, draw=0.5, backoff=Backoff(1.0, 30.0))
        return got.since == RV, got.delay_s

    assert following(None, 0) == (True, 0.0)
    assert following(None, 1) == (True, 0.0)
    assert following(None, 3) == (True, 2.0), "a server that ends every watch at once is not asked in a loop"
    assert following(Unreachable("cut"), 1) == (True, 0.5)
    assert following(Unreachable("cut"), 40) == (True, 15.0)
    assert following(Gone("old"), 1) == (False, 0.0)
    assert following(Gone("old"), 4) == (False, 4.0)


def event(happening: Happening, name: str, uid: str, version: int) -> WatchEvent:
    return WatchEvent(happening, {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version), "managedFields": [{}]}})


def test_the_mirror_tells_a_new_object_of_an_old_name_from_the_old_one() -> None:
    mirror = Mirror()
    first, second = event(Happening.ADDED, "a", "u1", 1), event(Happening.ADDED, "a", "u2", 2)
    assert [type(one) for one in mirror.take(first)] == [Appeared]
    assert mirror.take(first) == [], "what was seen is not told again"
    assert [type(one) for one in mirror.take(second)] == [Vanished, Appeared]
    assert mirror.take(event(Happening.DELETED, "a", "u1", 3)) == [], "the old one's end says nothing of the new one"
    held = mirror.get("a")
    assert held is not None
    assert uid_of(held) == "u2"
    assert "managedFields" not in metadata_of(held)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (422, Invalid),
        (401, Forbidden),
        (403, Forbidden),
        (404, Missing),
        (409, Conflict),
        (410, Gone),
        (429, TooMany),
    ]
    + [(status, Unreachable) for status in (500, 502, 503, 504, 302)],
)
def test_every_status_is_an_error_of_its_own_with_the_servers_words(status: int, kind: type[PrestageError]) -> None:
    body = b'{"kind":"Status","message":"spec.source: write\\nhf://org/name"}'
    error = error_of(Answer(status, body), "apply stagedmodels/a")
    assert type(error) is kind
    assert error.message == "apply stagedmodels/a: spec.source: write hf://org/name"


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    assert asked_s(Answer(429, b"", "7")) == 7.0
    assert [asked_s(Answer(429, b"", text)) for text in ("", "-1", "soon", "1e9", "999999")] == [None] * 5
    assert Backoff(0.25, 30).delay_s(1, 0.5, 7.0) == 7.125
    assert [Backoff(0.25, 30).delay_s(count, 1.0) for count in (1, 2, 3, 50)] == [0.25, 0.5, 1.0, 30]


@given(st.lists(st.binary(max_size=30), max_size=8), st.binary(max_size=30))
def test_lines_come_out_whole_however_they_are_cut(parts: list[bytes], rest: bytes) -> None:
    lines = Lines()
    stream = b"\n".join([*parts, rest.replace(b"\n", b"")])
    got = [line for at in range(0, len(stream), 3) for line in lines.feed(stream[at : at + 3])]
    assert got == [line for line in b"\n".join(parts).split(b"\n") if line.strip()] or not parts


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(Unreachable, match="more than 10 bytes"):
        Lines(10).feed(b"x" * 11)


@given(
    st.one_of(
        st.binary(max_size=60), st.sampled_from([b'{"type":"ADDED","object":1}', b'{"type":"X","object":{}}', b"[]", b"{}"])
    )
)
def test_a_line_that_is_none_is_answered(line: bytes) -> None:
    with pytest.raises(PrestageError):
        watch_event(line, "watch pods")


def test_an_error_line_is_the_error_it_says() -> None:
    with pytest.raises(Gone, match="watch pods: too old"):
        watch_event(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}', "watch pods")
    with pytest.raises(Unreachable):
        watch_event(b'{"type":"ERROR","object":{"kind":"Status"}}', "watch pods")


def test_paths_are_those_of_kubernetes() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("a", "b", "status") == "/api/v1/namespaces/a/pods/b/status"
    assert Resource("apps/v1", "deployments", "Deployment").path("a") == "/apis/apps/v1/namespaces/a/deployments"
    assert Resource("v1", "nodes", "Node", namespaced=False).path("ignored", "n") == "/api/v1/nodes/n"
