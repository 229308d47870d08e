"""Questions to the broker: once at a time, failures again later, nobody held up by somebody else's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from planning.objects import digest, line

from prestage.api.brokerage import Refusal, Resolved, ResolveRequest
from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import Denied, Unavailable
from prestage.control.demand.records import Question
from prestage.control.demand.resolving import Resolutions, delay_s
from prestage.wire.broker_client import Refused


class SlowBroker:
    """Answers when it is let; `fail` raises first."""

    def __init__(self) -> None:
        self.asked: list[ResolveRequest] = []
        self.fail: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()

    async def resolve(self, request: ResolveRequest, *, deadline_s: float | None = None) -> Resolved:
        self.asked.append(request)
        await self.open.wait()
        if self.fail:
            raise self.fail.pop(0)
        return Resolved(artifact=digest("a"), namespace=request.namespace, revision="r", files=1, size_bytes=5)


@asynccontextmanager
async def running(resolutions: Resolutions) -> AsyncIterator[None]:
    task = asyncio.create_task(resolutions.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


def question(number: int = 0, namespace: str = "team") -> Question:
    return Question(namespace, line(f"{namespace}-{number}"), "server", "hf-token")


def test_a_question_is_asked_once_while_it_is_under_way_and_its_answer_is_kept_until_it_is_seen() -> None:
    async def steps() -> None:
        broker, told = SlowBroker(), list[int]()
        broker.open.clear()
        resolutions = Resolutions(broker, told=lambda: told.append(1))
        async with running(resolutions):
            for _ in range(3):
                resolutions.want([question()])
                await asyncio.sleep(0.01)
            broker.open.set()
            await until(lambda: bool(told))
            resolutions.want([question()])
            await asyncio.sleep(0.02)
            assert len(broker.asked) == 1
            asked = broker.asked[0]
            assert (asked.namespace, asked.alias, asked.service_account, asked.credentials) == (
                "team",
                "llama",
                "server",
                "hf-token",
            )
            known = resolutions.answers[question().line]
            assert (known.artifact, known.size_bytes, known.revision) == (digest("a"), 5, "r")
            resolutions.forget_seen([question().line])
            assert not resolutions.answers

    asyncio.run(steps())


def test_a_refusal_is_kept_with_its_words_and_asked_again_later_until_it_is_answered() -> None:
    async def steps() -> None:
        broker = SlowBroker()
        refused = Denied("no right to read it", hint="name a Secret")
        refused.__cause__ = Refused(Refusal(error_class=ErrorClass.DENIED, code="OriginRefused", message="no"))
        broker.fail = [Unavailable("away"), refused]
        resolutions = Resolutions(broker, draw=lambda: 0.0)
        async with running(resolutions):
            resolutions.want([question()])
            await until(lambda: bool(resolutions.failures))
            first = resolutions.failures[question().line]
            assert (first.error_class, first.code, first.text) == (ErrorClass.UNAVAILABLE, "BrokerUnavailable", "away")
            await until(lambda: len(broker.asked) == 2 and resolutions.failures[question().line].attempts == 2)
            second = resolutions.failures[question().line]
            assert (second.error_class, second.code) == (ErrorClass.DENIED, "OriginRefused")
            assert second.text == "no right to read it; name a Secret"
            assert second.again_at_s - asyncio.get_running_loop().time() > 5
            resolutions.want([])
            assert not resolutions.failures

    asyncio.run(steps())


def test_a_question_that_changed_is_asked_anew_at_once() -> None:
    async def steps() -> None:
        broker = SlowBroker()
        broker.fail = [Denied("no")]
        resolutions = Resolutions(broker)
        async with running(resolutions):
            resolutions.want([question()])
            await until(lambda: bool(resolutions.failures))
            resolutions.want([Question("team", question().line, "server", "another-secret")])
            await until(lambda: bool(resolutions.answers))
            assert not resolutions.failures

    asyncio.run(steps())


def test_a_namespace_with_thousands_of_questions_leaves_room_for_others() -> None:
    async def steps() -> None:
        broker = SlowBroker()
        broker.open.clear()
        resolutions = Resolutions(broker)
        async with running(resolutions):
            flood = [question(number, "a-flood") for number in range(5000)]
            resolutions.want([*flood, question(1, "z-quiet")])
            await until(lambda: len(broker.asked) == 5)
            await asyncio.sleep(0.02)
            assert Counter(request.namespace for request in broker.asked) == {"a-flood": 4, "z-quiet": 1}

    asyncio.run(steps())


def test_what_passes_is_asked_again_soon_and_what_needs_somebody_later_both_bounded() -> None:
    assert delay_s(ErrorClass.UNAVAILABLE, 1, 0.0) == 0.5
    assert delay_s(ErrorClass.UNAVAILABLE, 50, 1.0) == 60.0
    assert delay_s(ErrorClass.DENIED, 1, 1.0) == 10.0
    assert delay_s(ErrorClass.DENIED, 50, 1.0) == 300.0
    assert delay_s(ErrorClass.BUSY, 1, 0.0, asked_s=9.0) == 9.0
