"""The broker's client against an HTTPS server: what it sends, when it asks again, and what a refusal becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from prestage.api.brokerage import STATUSES, ManifestAnswer, Refusal
from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import Misconfigured, PrestageError, Unavailable
from prestage.wire.broker_client import ERRORS, BrokerClient, BrokerSettings, refusal_of
from servers.certs import Authority

ARTIFACT = "sha256:" + "0" * 64
GOOD = ManifestAnswer(manifest="{}")


class Broker:
    """Answers what is queued, the last of it for ever; keeps what it was asked."""

    def __init__(self, *answers: web.Response | Refusal) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, object]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers["Authorization"], msgspec.json.decode(await request.read())))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Refusal):
            return web.Response(status=STATUSES[answer.error_class], body=msgspec.json.encode(answer))
        return web.Response(status=answer.status, body=answer.body)


def good() -> web.Response:
    return web.Response(body=msgspec.json.encode(GOOD))


def asking(
    tmp_path: Path,
    broker: Broker,
    test: Callable[[BrokerClient, Authority], Awaitable[None]],
    *,
    deadline_s: float = 5.0,
    stopped: bool = False,
) -> None:
    authority = Authority(tmp_path / "tls")
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_bytes(authority.ca.read_bytes())

    async def served() -> None:
        async with asyncio.timeout(30):
            app = web.Application()
            app.router.add_post("/{path:.*}", broker.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context())
            await site.start()
            port = runner.addresses[0][1]
            settings = BrokerSettings(f"https://localhost:{port}", tmp_path / "token", tmp_path / "ca.crt", deadline_s)
            try:
                async with BrokerClient(settings) as client:
                    if stopped:
                        await site.stop()
                    await test(client, authority)
            finally:
                await runner.cleanup()

    asyncio.run(served())


def test_a_question_carries_the_token_as_its_file_is_now(tmp_path: Path) -> None:
    broker = Broker(good())

    async def test(client: BrokerClient, _: Authority) -> None:
        assert await client.manifest(ARTIFACT) == GOOD
        (tmp_path / "token").write_text("two")
        await client.manifest(ARTIFACT)

    asking(tmp_path, broker, test)
    asked = {"artifact": ARTIFACT}
    assert broker.asked == [("/v1/manifest", "Bearer one", asked), ("/v1/manifest", "Bearer two", asked)]


def test_what_the_broker_refuses_is_the_cachers_error_of_its_class_and_asked_once(tmp_path: Path) -> None:
    for error_class, kind in ERRORS.items():
        if error_class is ErrorClass.UNAVAILABLE:
            continue
        refusal = Refusal(error_class=error_class, code="SoAndSo", message="why", hint="what now", retry_after_s=7.0)
        broker = Broker(refusal)

        async def test(client: BrokerClient, _: Authority, kind: type[PrestageError] = kind, refusal: Refusal = refusal) -> None:
            with pytest.raises(kind) as found:
                await client.manifest(ARTIFACT)
            assert str(found.value) == "why; what now"
            assert refusal_of(found.value) == refusal

        asking(tmp_path, broker, test)
        assert len(broker.asked) == 1
    assert set(ERRORS) == set(ErrorClass) == set(STATUSES)


def test_what_passes_is_asked_again_until_it_is_answered(tmp_path: Path) -> None:
    busy = Refusal(error_class=ErrorClass.UNAVAILABLE, code="OriginDown", message="later", retry_after_s=0.05)
    broker = Broker(web.Response(status=502, body=b"<html>"), web.Response(status=429), busy, good())

    async def test(client: BrokerClient, _: Authority) -> None:
        assert await client.manifest(ARTIFACT) == GOOD

    asking(tmp_path, broker, test)
    assert len(broker.asked) == 4


def test_it_gives_up_at_its_deadline_and_never_waits_past_it(tmp_path: Path) -> None:
    broker = Broker(
        Refusal(error_class=ErrorClass.UNAVAILABLE, code="OriginDown", message="the origin is down", retry_after_s=60)
    )

    async def test(client: BrokerClient, _: Authority) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="the origin is down"):
            await client.manifest(ARTIFACT)
        assert asyncio.get_running_loop().time() - began < 1.0

    asking(tmp_path, broker, test, deadline_s=2.0)


def test_nobody_there_is_unavailable_after_the_deadline(tmp_path: Path) -> None:
    async def test(client: BrokerClient, _: Authority) -> None:
        with pytest.raises(Unavailable, match="does not answer") as found:
            await client.manifest(ARTIFACT)
        assert refusal_of(found.value) is None

    asking(tmp_path, Broker(good()), test, deadline_s=0.5, stopped=True)


def test_an_authority_that_changes_counts_from_the_next_question_on(tmp_path: Path) -> None:
    broker = Broker(good())

    async def test(client: BrokerClient, authority: Authority) -> None:
        await client.manifest(ARTIFACT)
        (tmp_path / "ca.crt").write_bytes(Authority(tmp_path / "other").ca.read_bytes())
        with pytest.raises(Unavailable, match="certificate"):
            await client.manifest(ARTIFACT)
        (tmp_path / "ca.crt").write_bytes((tmp_path / "ca.crt").read_bytes() + authority.ca.read_bytes())
        await client.manifest(ARTIFACT)

    asking(tmp_path, broker, test)
    assert len(broker.asked) == 2


def test_missing_and_broken_files_are_told_by_name_and_never_by_content(tmp_path: Path) -> None:
    async def test(client: BrokerClient, _: Authority) -> None:
        for text in ("two\nlines", "tökén"):
            (tmp_path / "token").write_text(text)
            with pytest.raises(Misconfigured, match="holds no token") as found:
                await client.manifest(ARTIFACT)
            assert text not in str(found.value)
        (tmp_path / "token").unlink()
        with pytest.raises(Misconfigured, match="token cannot be read"):
            await client.manifest(ARTIFACT)
        (tmp_path / "token").write_text("one")
        (tmp_path / "ca.crt").write_text("nothing")
        with pytest.raises(Misconfigured, match="holds no certificates"):
            await client.manifest(ARTIFACT)

    asking(tmp_path, Broker(good()), test)


def test_answers_that_are_none_are_refused(tmp_path: Path) -> None:
    async def rubbish(client: BrokerClient, _: Authority) -> None:
        with pytest.raises(Unavailable, match="cannot be read"):
            await client.manifest(ARTIFACT)

    async def redirect(client: BrokerClient, _: Authority) -> None:
        with pytest.raises(Unavailable, match="302 without a reason"):
            await client.manifest(ARTIFACT)

    asking(tmp_path, Broker(web.Response(body=b"[]")), rubbish)
    asking(tmp_path, Broker(web.Response(status=302)), redirect)


def test_a_deadline_of_one_question_is_its_own(tmp_path: Path) -> None:
    class Slow(Broker):
        async def answer(self, request: web.Request) -> web.Response:
            await asyncio.sleep(0.5)
            return await super().answer(request)

    async def test(client: BrokerClient, _: Authority) -> None:
        with pytest.raises(Unavailable, match="no answer in time"):
            await client.manifest(ARTIFACT, deadline_s=0.2)
        assert await client.manifest(ARTIFACT) == GOOD

    asking(tmp_path, Slow(good()), test)
