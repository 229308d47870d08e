"""Events: what is said once, what becomes a series, what is not said at all."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable

from hypothesis import given
from hypothesis import strategies as st

from prestage.kube.errors import Unreachable
from prestage.kube.events import Book, EventType, Recorder, Said, Subject, Verdict, event_body
from prestage.kube.ports import EVERYTHING, Object
from prestage.kube.resources import EVENTS, NODES, PODS
from prestage.kube.testing import FakeApi

POD = Subject(PODS, "server", "team-a", "u1", "7")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def said(note: str = "Staging 41 %", subject: Subject = POD) -> Said:
    return Said(subject, "Staging", note, "Stage")


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def test_the_same_again_is_a_series_no_more_often_than_allowed_and_anew_after_silence() -> None:
    book = Book()
    verdicts = [book.decide(said(), at_s) for at_s in (0.0, 1.0, 31.0, 32.0, 500.0)]
    assert [verdict for verdict, _, _ in verdicts] == [
        Verdict.CREATE,
        Verdict.NOTHING,
        Verdict.SERIES,
        Verdict.NOTHING,
        Verdict.CREATE,
    ]
    assert [count for _, _, count in verdicts] == [1, 2, 3, 4, 1]
    assert verdicts[0][1] == verdicts[2][1] != verdicts[4][1]


def test_an_object_that_says_too_much_is_slowed_down_and_others_are_not() -> None:
    book = Book()
    got = [book.decide(said(f"{number} %"), 0.0)[0] for number in range(30)]
    assert got.count(Verdict.CREATE) == book.burst
    assert book.decide(said("x", Subject(PODS, "other", "team-a", "u2")), 0.0)[0] is Verdict.CREATE
    assert book.decide(said("later"), 31.0)[0] is Verdict.CREATE


def test_what_is_remembered_is_bounded() -> None:
    book = Book(entries_max=10)
    for number in range(100):
        book.decide(said(subject=Subject(PODS, f"p{number}", "a", f"u{number}")), 0.0)
    assert len(book._entries) <= 10
    assert len(book._tokens) <= 10


@given(st.text(max_size=2000))
def test_a_note_of_any_length_fits(note: str) -> None:
    body = event_body(said(note), "n", controller="prestage.dev/planner", instance="x" * 500, now=NOW)
    shortened, instance = body["note"], body["reportingInstance"]
    assert isinstance(shortened, str)
    assert isinstance(instance, str)
    assert len(shortened.encode()) <= 1024
    assert len(instance) <= 128


async def _recorded(api: FakeApi, *sayings: Said) -> Recorder:
    recorder = Recorder(api, controller="prestage.dev/planner", instance="planner-0", now=lambda: NOW)
    sending = asyncio.create_task(recorder.run())
    for one in sayings:
        recorder.say(one)
    await recorder.drained()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return recorder


def test_an_event_is_about_its_object_and_in_its_namespace() -> None:
    async def test() -> None:
        api = FakeApi()
        node = Subject(NODES, "n1", None, "u9")
        await _recorded(api, said(), Said(node, "DiskFull", "6 TiB", "Evict", EventType.WARNING))
        events: list[Object] = sorted((await api.page(EVENTS, EVERYTHING)).items, key=lambda one: str(one["reason"]))
        assert [(one["reason"], one["type"], one["note"]) for one in events] == [
            ("DiskFull", "Warning", "6 TiB"),
            ("Staging", "Normal", "Staging 41 %"),
        ]
        assert events[1]["regarding"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "server",
            "namespace": "team-a",
            "uid": "u1",
            "resourceVersion": "7",
        }

    run(test())


def test_what_is_not_taken_is_dropped_and_counted_and_the_next_one_goes() -> None:
    async def test() -> None:
        api = FakeApi()
        api.fail = [Unreachable("down")]
        recorder = await _recorded(api, said("first"), said("second"))
        assert recorder.dropped == 1
        assert [one["note"] for one in (await api.page(EVENTS)).items] == ["second"]

    run(test())


def test_more_than_can_wait_is_dropped() -> None:
    async def test() -> None:
        recorder = Recorder(FakeApi(), controller="c", instance="i", queue_max=3)
        for number in range(5):
            recorder.say(said(str(number)))
        assert recorder.dropped == 2

    run(test())


def test_of_what_waits_about_one_topic_only_the_newest_is_sent_in_the_place_of_the_first() -> None:
    async def test() -> None:
        api = FakeApi()
        other = Subject(PODS, "other", "team-a", "u2")
        news = [Said(POD, reason, reason, "Stage", topic="warm") for reason in ("Staging", "Warm")]
        await _recorded(api, news[0], said("x", other), said("no topic"), said("no topic either"), news[1])
        assert [verb for verb, _ in api.writes] == ["create"] * 4
        notes = [str(one["note"]) for one in (await api.page(EVENTS)).items]
        assert sorted(notes) == ["Warm", "no topic", "no topic either", "x"]

    run(test())


def test_what_takes_the_place_of_another_needs_no_room() -> None:
    recorder = Recorder(FakeApi(), controller="c", instance="i", queue_max=1)
    for note in ("1 %", "2 %"):
        recorder.say(Said(POD, "Staging", note, "Stage", topic="warm"))
    assert recorder.dropped == 0
    recorder.say(said("3 %"))
    assert recorder.dropped == 1
