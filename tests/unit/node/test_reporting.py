"""What a node says of itself, how much of it, and how often."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import replace
from typing import cast

import msgspec
import pytest

from prestage.api.nodes import ENTRIES_MAX, IMAGES_MAX, Action, ErrorClass, NodeCacheStatus, PlannedArtifact, State, Step
from prestage.cacher.agent import stages as agent
from prestage.cacher.agent.feed import Feed
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Denied, PrestageError, Unavailable
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.staging import Wish
from prestage.cacher.store.budget import Usage
from prestage.node.plan import Plan
from prestage.node.reporting import STATUS_BYTES_MAX, Look, Written, due_in_s, entry_of, is_news, newest, status_of

NOW = datetime.datetime(2026, 11, 26, 12, 0, 0, 500, tzinfo=datetime.UTC)
A, B = ArtifactId("sha256:" + "a" * 64), ArtifactId("sha256:" + "b" * 64)
USAGE = Usage(10, 1, 100, 5, None)
LOOK = Look("store-1", USAGE, {A: "staged"}, {})
PLAN = Plan({A: PlannedArtifact(digest=A, action=Action.KEEP), B: PlannedArtifact(digest=B, action=Action.STAGE)}, "p", 3)


def stage(artifact: ArtifactId, state: agent.State, outcome: PrestageError | None = None, *events: str) -> agent.Stage:
    feed = Feed(cast(asyncio.AbstractEventLoop, None))
    for event in events:
        feed.publish({"event": event})
    return agent.Stage("id", Wish(ArtifactRef(artifact)), feed, True, state=state, outcome=outcome)


def due(status: NodeCacheStatus, written: Written, now_s: float) -> float:
    return due_in_s(written, now_s, is_news=is_news(status, written))


def test_each_artifact_is_told_as_it_stands() -> None:
    assert entry_of(A, PLAN, LOOK).state is State.WARM
    assert entry_of(B, PLAN, LOOK).state is State.PENDING
    released = Plan({A: PlannedArtifact(digest=A, action=Action.RELEASE)})
    assert entry_of(A, released, LOOK).state is State.RELEASING
    running = agent.State.RUNNING
    for events, step in (((), Step.RESOLVE), (("resolved",), Step.DOWNLOAD), (("resolved", "verifying"), Step.VERIFY)):
        entry = entry_of(B, PLAN, replace(LOOK, stages={B: stage(B, running, None, *events)}))
        assert (entry.state, entry.step) == (State.STAGING, step)
    failed = replace(LOOK, stages={B: stage(B, agent.State.FAILED, Denied("no"))}, codes={B: "NoCredentials"})
    entry = entry_of(B, PLAN, failed)
    assert (entry.state, entry.error_class, entry.error_code) == (State.FAILED, ErrorClass.DENIED, "NoCredentials")
    waiting = replace(LOOK, stages={B: stage(B, agent.State.WAITING, Unavailable("away"))})
    assert entry_of(B, PLAN, waiting).error_code == "Unavailable"
    damaged = entry_of(B, PLAN, replace(LOOK, held={B: "damaged"}))
    assert (damaged.state, damaged.error_class) == (State.FAILED, ErrorClass.CORRUPT)


def test_bytes_that_are_here_are_told_with_what_is_written_anyway() -> None:
    running = stage(B, agent.State.RUNNING)
    look = replace(LOOK, stages={B: running})
    assert entry_of(B, PLAN, look).fetched is None
    running.feed.publish({"event": "resolved", "bytes": 1000, "missing_bytes": 900})
    assert entry_of(B, PLAN, look).fetched == 100
    before = status_of(PLAN, look, None, NOW, is_current=True)
    running.feed.publish({"event": "progress", "bytes": 310, "total": 800})  # 100 of the 900 were journaled
    assert entry_of(B, PLAN, look).fetched == 510
    after = status_of(PLAN, look, before, NOW, is_current=True)
    assert due(after, Written(before, at_s=100.0), 101.0) == 59.0  # bytes alone are worth no write


def test_the_whole_says_plan_store_and_conditions() -> None:
    status = status_of(PLAN, LOOK, None, NOW, is_current=True)
    assert (status.observed_generation, status.observed_plan, status.store_id) == (3, "p", "store-1")
    assert {one.type: str(one.status) for one in status.conditions or ()} == {
        "DiskHealthy": "True", "OriginReachable": "True", "Ready": "True",
    }  # fmt: skip
    assert status_of(PLAN, LOOK, None, NOW, is_current=False).observed_generation is None
    away = replace(LOOK, stages={B: stage(B, agent.State.WAITING, Unavailable("away"))}, disk_trouble="it failed")
    conditions = {
        one.type: (str(one.status), one.reason) for one in status_of(PLAN, away, status, NOW, is_current=True).conditions or ()
    }
    assert conditions["OriginReachable"] == ("False", "NoAnswer")
    assert conditions["Ready"] == conditions["DiskHealthy"] == ("False", "DiskFailed")


def test_nine_of_ten_stages_were_faster_than_the_rate_that_is_told() -> None:
    status = status_of(PLAN, replace(LOOK, rates=[float(rate) for rate in range(100, 0, -1)]), None, NOW, is_current=True)
    assert status.origin_rate_p10 == 11


@pytest.mark.parametrize(("count", "is_beside_images"), [(450, True), (600, False)])
def test_of_more_than_it_can_tell_it_tells_the_same_ones_each_time(count: int, is_beside_images: bool) -> None:
    """Else each look is news, and what is not named this time counts as gone."""
    names = [ArtifactId(f"sha256:{number * 7919:064x}") for number in range(count)]
    wanted = {one: PlannedArtifact(digest=one, action=Action.KEEP) for one in names[-40:]}
    look = replace(LOOK, held=dict.fromkeys(names, "staged"))
    written = Written()
    for _ in range(2):
        status = status_of(Plan(wanted, "p", 3), look, written.status, NOW, is_current=True, is_beside_images=is_beside_images)
        is_new, written = is_news(status, written), Written(status, 0.0)
    assert not is_new
    assert wanted.keys() <= {one.digest for one in status.artifacts or ()}


def test_it_is_never_larger_than_it_may_be_and_what_changed_goes_first() -> None:
    names = [ArtifactId(f"sha256:{number:064x}") for number in range(2000)]
    look = replace(LOOK, held=dict.fromkeys(names, "staged"))
    first = status_of(Plan(), look, None, NOW, is_current=True)
    assert len(msgspec.json.encode(first)) <= STATUS_BYTES_MAX
    assert len(first.artifacts or ()) <= ENTRIES_MAX
    beside = status_of(
        Plan(), replace(LOOK, held=dict.fromkeys(names[:512], "staged")), None, NOW, is_current=True, is_beside_images=True
    )
    assert len(beside.artifacts or ()) + IMAGES_MAX == ENTRIES_MAX, "both containers write into one list"
    changed = replace(look, held={**look.held, names[0]: "damaged", names[1999]: "damaged"})
    second = status_of(Plan(), changed, first, NOW, is_current=True)
    assert [one.digest for one in (second.artifacts or ())[:1]] == [names[0]]


def test_a_changed_state_is_written_within_a_second_and_the_rest_each_minute() -> None:
    status = status_of(PLAN, LOOK, None, NOW, is_current=True)
    assert due(status, Written(), 100.0) == 0.0
    written = Written(status, 100.0)
    later = status_of(PLAN, replace(LOOK, usage=Usage(999, 0, 1, 0, None)), status, NOW, is_current=True)
    assert due(later, written, 101.0) == 59.0
    assert due(later, written, 160.0) == 0.0
    changed = status_of(PLAN, replace(LOOK, held={A: "staged", B: "staged"}), status, NOW, is_current=True)
    assert due(changed, written, 100.25) == 0.75
    assert due(changed, written, 101.0) == 0.0
    assert due(NodeCacheStatus(), written, 101.0) == 0.0
    failed = written.failed(160.0)
    assert [due(later, failed, now_s) for now_s in (160.0, 164.0, 165.0)] == [5.0, 1.0, 0.0]
    assert due(changed, failed, 161.0) == 4.0, "nor is news written more often while writes fail"


def test_the_newest_stage_of_an_artifact_counts() -> None:
    active, ended = stage(A, agent.State.RUNNING), stage(A, agent.State.FAILED)
    assert newest([active, ended]) == {A: active}
