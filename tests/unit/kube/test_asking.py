"""What the adapter sends again, and what it never does: over a server in this process that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from prestage.cacher.errors import PrestageError
from prestage.kube.client import KubeApi, goes_by_proxy
from prestage.kube.errors import Conflict, Gone, Invalid, Missing, TooMany, Unreachable
from prestage.kube.ports import EVERYTHING, Api, Object, PatchType, ResourceVersion, WatchEvent
from prestage.kube.resources import CONFIG_MAPS
from prestage.kube.settings import KubeSettings

BODY: Object = {"metadata": {"name": "a", "namespace": "n"}}
Asked = Callable[[Api], Awaitable[object]]

GET: Asked = lambda api: api.get(CONFIG_MAPS, "a", namespace="n")  # noqa: E731
LIST: Asked = lambda api: api.page(CONFIG_MAPS)  # noqa: E731
APPLY: Asked = lambda api: api.apply(CONFIG_MAPS, BODY, manager="m")  # noqa: E731
DELETE: Asked = lambda api: api.delete(CONFIG_MAPS, "a", namespace="n")  # noqa: E731
CREATE: Asked = lambda api: api.create(CONFIG_MAPS, BODY)  # noqa: E731
REPLACE: Asked = lambda api: api.replace(CONFIG_MAPS, BODY)  # noqa: E731
PATCH: Asked = lambda api: api.patch(CONFIG_MAPS, "a", {}, namespace="n", type=PatchType.MERGE)  # noqa: E731


class Script:
    """Answers in turn; the last one for ever. A body None: the connection is cut instead."""

    def __init__(self, *answers: tuple[int, bytes | None], retry_after: str = "") -> None:
        self.answers = list(answers)
        self.retry_after = retry_after
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, str(request.rel_url)))
        self.bodies.append(await request.read())
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if body is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)


OK = (200, b'{"kind":"ConfigMap","metadata":{"resourceVersion":"7"}}')


@asynccontextmanager
async def serving(script: Script, folder: Path, deadline_s: float = 20.0) -> AsyncIterator[KubeApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    config = folder / "kubeconfig"
    cluster = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    named = {"clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": "t"}}]}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config.write_text(json.dumps({"current-context": "x", "contexts": [context], **named}))
    try:
        async with await KubeApi.connect(KubeSettings(kubeconfig=config, deadline_s=deadline_s)) as api:
            yield api
    finally:
        await runner.cleanup()


def ask(script: Script, asked: Asked, folder: Path, deadline_s: float = 20.0) -> object:
    async def test() -> object:
        async with serving(script, folder, deadline_s) as api, asyncio.timeout(30):
            return await asked(api)

    return asyncio.run(test())


@pytest.mark.parametrize("asked", [GET, LIST, APPLY, DELETE])
@pytest.mark.parametrize("trouble", [(503, b"{}"), (500, b"oops"), (429, b"{}"), (200, None)])
def test_what_may_be_asked_twice_is(asked: Asked, trouble: tuple[int, bytes | None], tmp_path: Path) -> None:
    script = Script(trouble, trouble, OK)
    ask(script, asked, tmp_path)
    assert len(script.asked) == 3
    assert len(set(script.asked)) == 1
    assert len(set(script.bodies)) == 1


@pytest.mark.parametrize("asked", [CREATE, REPLACE, PATCH])
@pytest.mark.parametrize("trouble", [(503, b"{}"), (500, b"oops"), (200, None)])
def test_what_may_have_been_done_is_never_asked_twice(asked: Asked, trouble: tuple[int, bytes | None], tmp_path: Path) -> None:
    script = Script(trouble, OK)
    with pytest.raises(Unreachable):
        ask(script, asked, tmp_path)
    assert len(script.asked) == 1


@pytest.mark.parametrize("asked", [CREATE, REPLACE, PATCH])
def test_what_the_server_refused_to_look_at_is_asked_again(asked: Asked, tmp_path: Path) -> None:
    script = Script((429, b"{}"), OK)
    ask(script, asked, tmp_path)
    assert len(script.asked) == 2


@pytest.mark.parametrize(("status", "kind"), [(400, Invalid), (404, Missing), (409, Conflict), (410, Gone), (422, Invalid)])
def test_what_will_not_change_is_not_asked_again(status: int, kind: type[PrestageError], tmp_path: Path) -> None:
    script = Script((status, b'{"message":"no"}'))
    with pytest.raises(kind, match="get /api/v1/namespaces/n/configmaps/a: no"):
        ask(script, GET, tmp_path)
    assert len(script.asked) == 1


def test_a_delete_whose_answer_was_lost_is_done_when_it_is_gone(tmp_path: Path) -> None:
    ask(Script((200, None), (404, b"{}")), DELETE, tmp_path)
    with pytest.raises(Missing):
        ask(Script((404, b"{}")), DELETE, tmp_path)


def test_a_wait_longer_than_the_deadline_is_the_callers_decision(tmp_path: Path) -> None:
    script = Script((429, b'{"message":"too many"}'), retry_after="60")
    with pytest.raises(TooMany, match="too many; the API server is overloaded"):
        ask(script, GET, tmp_path)
    assert len(script.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"metadata":3,"items":4}', b'{"metadata":{},"items":{}}'])
def test_an_answer_that_is_no_list_is_said_to_be_none(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        ask(Script((200, body)), LIST, tmp_path)


def test_a_stream_that_is_cut_or_garbled_ends_the_watch_with_what_came_before(tmp_path: Path) -> None:
    good = b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n'

    async def heard(api: KubeApi) -> list[WatchEvent]:
        events = list[WatchEvent]()
        try:
            async with aclosing(api.watch(CONFIG_MAPS, EVERYTHING, ResourceVersion("1"), lasting_s=5)) as watch:
                async for one in watch:
                    events.append(one)
        except Unreachable:
            return events
        raise AssertionError("the watch ended in order")

    for tail in (b"{half\n", b'{"type":"ERROR","object":{"code":500,"message":"etcd"}}\n'):

        async def test(tail: bytes = tail) -> None:
            script = Script((200, good + tail))
            async with serving(script, tmp_path) as api:
                assert [str(one.happening) for one in await heard(api)] == ["ADDED"]
            assert "resourceVersion=1" in script.asked[0][1]
            assert "allowWatchBookmarks=true" in script.asked[0][1]

        asyncio.run(test())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"https_proxy": "http://proxy:3128"}, True),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "10.0.0.1,.svc"}, False),
        ({"http_proxy": "http://proxy:3128"}, False),
    ],
)
def test_a_proxy_is_looked_for_only_where_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert goes_by_proxy("https://10.0.0.1:443") is expected
