"""Stages with a stager that does as it is told: who joins, who leaves, what is tried again, what survives."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from prestage.cacher.agent import stages as module
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.stages import Stage, Stages, State
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Corrupt, Full, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.cacher.origins.ports import Origin
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.store.disk import Disk
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.wishes import KeptWish, Wishes
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Priority
from prestage.cacher.transfer.ports import Cancelled

ONE, TWO = "file:///one", "file:///two"
ARTIFACT = ArtifactId("sha256:" + "1" * 64)


@dataclass
class FakeStager:
    """Stays in a stage until it is let go, cancelled or told to fail."""

    outcomes: list[PrestageError] = field(default_factory=list)
    """One for each call, in order; then it succeeds."""
    waits: bool = True
    begun: list[tuple[str, Priority]] = field(default_factory=list)
    urged: list[tuple[ArtifactId, Priority]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    resolves: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.resolves.set()

    def stage(self, wish: Wish, origin: Origin, watcher: Watcher, cancel: threading.Event) -> Staged:
        self.begun.append((wish.ref.name, wish.priority))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        assert self.resolves.wait(20)
        manifest = manifest_of("test:", "", [FileEntry("a", 10)])
        watcher.resolved(manifest, 10)
        watcher.progress(Progress(1, 10, 5.0, 0, "origin"))
        if outcome is not None:
            raise outcome
        deadline = time.monotonic() + 20
        while self.waits and not self.go_on.wait(0.005):
            if cancel.is_set():
                raise Cancelled
            assert time.monotonic() < deadline
        return Staged(manifest.artifact, Path("/view"), 1, 10, 0.1, {"origin": 10})

    def urge(self, artifact: ArtifactId, priority: Priority) -> None:
        self.urged.append((artifact, priority))


@dataclass
class Bench:
    """One set of stages and what it is made of."""

    stager: FakeStager
    wishes: Wishes
    stages: Stages
    group: asyncio.TaskGroup

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.002)

    def kept(self) -> list[KeptWish]:
        return list(self.wishes.all())

    async def running(self, ref: str, *, keep: bool = False, priority: Priority = Priority.DECLARED) -> Stage:
        stage = await self.stages.ask(wish(ref, priority), keep=keep)
        await self.until(lambda: stage.state is State.RUNNING and stage.artifact)
        return stage


def wish(ref: str, priority: Priority = Priority.DECLARED) -> Wish:
    return Wish(parse_ref(ref), priority=priority)


Scenario = Callable[[Bench], Awaitable[None]]


def run(root: Path, scenario: Scenario, *, stager: FakeStager | None = None, stages_max: int = 16) -> FakeStager:
    stager = stager or FakeStager()
    layout = Layout(root)
    layout.wishes.mkdir(parents=True, exist_ok=True)
    wishes = Wishes(layout, Disk())
    config = AgentConfig(root=root, socket=root / "s", stages_max=stages_max, waiting_stages_max=2)

    async def main() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            origin = cast(Origin, None)
            stages = Stages(cast(Stager, stager), lambda ref, cancel: origin, wishes, config, group=group, rng=random.Random(1))
            await stages.start()
            try:
                await scenario(Bench(stager, wishes, stages, group))
            finally:
                await stages.drain(20)
                stages.close()

    asyncio.run(main())
    return stager


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_BASE_S", 0.01)
    monkeypatch.setattr(module, "RETRY_CAP_S", 0.02)


def test_two_who_ask_for_the_same_are_one_stage_and_the_more_urgent_counts(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.running(ONE)
        second = await bench.stages.ask(wish(ONE, Priority.WAITING_POD), keep=True)
        assert first is second
        assert first.is_kept
        assert bench.stager.urged[-1] == (first.artifact, Priority.WAITING_POD)
        third = await bench.stages.ask(wish(ONE, Priority.FOLLOW_ON), keep=False)
        assert third is first
        assert (first.is_kept, first.wish.priority) == (True, Priority.WAITING_POD)
        assert [kept.priority for kept in bench.kept()] == [Priority.WAITING_POD]
        bench.stager.go_on.set()
        await bench.until(lambda: first.state is State.DONE)

    assert run(tmp_path, scenario).begun == [(ONE, Priority.DECLARED)]


def test_who_urges_before_it_is_resolved_is_heard_once_it_is(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.stager.resolves.clear()
        stage = await bench.stages.ask(wish(ONE), keep=False)
        await bench.until(lambda: bench.stager.begun)
        await bench.stages.ask(wish(ONE, Priority.WAITING_POD), keep=False)
        assert bench.stager.urged == []
        bench.stager.resolves.set()
        await bench.until(lambda: bench.stager.urged)
        assert bench.stager.urged[-1] == (stage.artifact, Priority.WAITING_POD)
        bench.stager.go_on.set()

    run(tmp_path, scenario)


def test_the_last_listener_who_leaves_takes_back_what_is_not_kept(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        attached, kept = await bench.running(ONE), await bench.running(TWO, keep=True)
        listeners = [bench.stages.subscribe(attached) for _ in range(2)]
        only = bench.stages.subscribe(kept)
        listeners[0].close()
        only.close()
        await asyncio.sleep(0.02)
        assert attached.state is State.RUNNING
        listeners[1].close()
        await bench.until(lambda: attached.state is State.FAILED)
        assert isinstance(attached.outcome, Unavailable)
        assert kept.state is State.RUNNING
        await bench.until(lambda: [kept.ref for kept in bench.kept()] == [TWO])

    run(tmp_path, scenario)


def test_who_is_refused_a_kept_stage_takes_it_from_nobody_who_was_promised_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, began = Wishes.keep, threading.Event()

    def full_for_the_first(wishes: Wishes, kept: KeptWish) -> None:
        if not began.is_set():
            began.set()
            time.sleep(0.2)
            raise Full("no room for a wish")
        keep(wishes, kept)

    monkeypatch.setattr(Wishes, "keep", full_for_the_first)

    async def scenario(bench: Bench) -> None:
        refused = asyncio.ensure_future(bench.stages.ask(wish(ONE), keep=True))
        await bench.until(began.is_set)
        promised = await bench.stages.ask(wish(ONE), keep=True)
        with pytest.raises(Full):
            await refused
        assert (promised.is_kept, promised.is_taken_back) == (True, False)
        assert [kept.ref for kept in bench.kept()] == [ONE]

    run(tmp_path, scenario)


@pytest.mark.parametrize("error", [Unavailable("u"), Busy("b"), Full("f")], ids=lambda error: error.kind)
def test_what_may_pass_is_tried_again_for_a_kept_stage_only(error: PrestageError, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.stager.outcomes = [error, error]
        kept = await bench.stages.ask(wish(ONE), keep=True)
        await bench.until(lambda: kept.state is State.DONE)
        assert kept.tries == 3
        bench.stager.outcomes = [error]
        attached = await bench.stages.ask(wish(TWO), keep=False)
        await bench.until(lambda: attached.has_ended)
        assert attached.outcome is error
        await bench.until(lambda: bench.kept() == [])

    run(tmp_path, scenario, stager=FakeStager(waits=False))


def test_room_that_a_pod_waits_for_is_looked_for_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RETRY_BASE_S", 3600.0), ("RETRY_CAP_S", 3600.0), ("ROOM_CAP_S", 0.01)):
        monkeypatch.setattr(module, name, seconds)

    async def scenario(bench: Bench) -> None:
        bench.stager.outcomes = [Full("f"), Full("f")]
        waited_for = await bench.stages.ask(wish(ONE, Priority.WAITING_POD), keep=True)
        await bench.until(lambda: waited_for.state is State.DONE)
        assert (waited_for.feed.latest("trouble") or {})["kind"] == Full.kind
        bench.stager.outcomes = [Full("f")]
        declared = await bench.stages.ask(wish(TWO), keep=True)
        await bench.until(lambda: declared.state is State.WAITING)

    run(tmp_path, scenario, stager=FakeStager(waits=False))


@pytest.mark.parametrize("error", [Corrupt("c"), NotFound("n")], ids=lambda error: error.kind)
def test_what_does_not_pass_ends_even_a_kept_stage_and_its_wish(error: PrestageError, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.stager.outcomes = [error]
        stage = await bench.stages.ask(wish(ONE), keep=True)
        await bench.until(lambda: stage.has_ended)
        assert (stage.outcome, stage.tries) == (error, 1)
        await bench.until(lambda: bench.kept() == [])

    run(tmp_path, scenario)


def test_a_bug_in_one_stage_ends_that_one_and_no_other(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        other = await bench.running(TWO)
        bench.stager.outcomes = [cast(PrestageError, RuntimeError("ours"))]
        stage = await bench.stages.ask(wish(ONE), keep=True)
        await bench.until(lambda: stage.has_ended)
        assert isinstance(stage.outcome, PrestageError)
        assert stage.outcome.kind == "bug"
        assert other.state is State.RUNNING

    run(tmp_path, scenario)


def test_paused_it_stands_and_resumed_it_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        stage = await bench.running(ONE, keep=True)
        await bench.stages.pause(stage)
        await bench.until(lambda: stage.state is State.PAUSED)
        assert [kept.is_paused for kept in bench.kept()] == [True]
        await bench.stages.resume(stage)
        await bench.until(lambda: stage.state is State.RUNNING)
        assert [kept.is_paused for kept in bench.kept()] == [False]
        bench.stager.go_on.set()
        await bench.until(lambda: stage.state is State.DONE)

    assert len(run(tmp_path, scenario).begun) == 2


def test_a_pause_of_all_holds_for_what_comes_later_but_not_for_waiting_pods(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        running = await bench.running(ONE)
        await bench.stages.pause_all()
        await bench.until(lambda: running.state is State.PAUSED)
        assert bench.wishes.are_paused
        later = await bench.stages.ask(wish(TWO), keep=False)
        await bench.until(lambda: later.state is State.PAUSED)
        await bench.running("file:///pod", priority=Priority.WAITING_POD)
        await bench.stages.ask(wish(TWO, Priority.WAITING_POD), keep=False)
        await bench.until(lambda: later.state is State.RUNNING)
        await bench.stages.resume_all()
        await bench.until(lambda: running.state is State.RUNNING)
        assert not bench.wishes.are_paused

    run(tmp_path, scenario)


def test_in_the_queue_it_can_be_urged_paused_and_taken_back(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.running(ONE)
        queued = [await bench.stages.ask(wish(f"file:///queued-{number}"), keep=True) for number in range(3)]
        await asyncio.sleep(0.02)
        assert {stage.state for stage in queued} == {State.QUEUED}
        await bench.stages.ask(wish("file:///queued-2", Priority.WAITING_POD), keep=False)
        await bench.until(lambda: queued[2].state is State.RUNNING)
        await bench.stages.pause(queued[0])
        await bench.until(lambda: queued[0].state is State.PAUSED)
        bench.stages.take_back(queued[1])
        await bench.until(lambda: queued[1].state is State.FAILED)
        await bench.until(lambda: len(bench.kept()) == 3)

    run(tmp_path, scenario, stages_max=1)


def test_taken_back_and_asked_for_again_at_once_is_a_new_stage(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        old = await bench.running(ONE, keep=True)
        bench.stages.take_back(old)
        new = await bench.stages.ask(wish(ONE), keep=True)
        assert new is not old
        await bench.until(lambda: old.has_ended)
        assert bench.stages.get(new.id) is new
        assert [kept.ref for kept in bench.kept()] == [ONE], "the old one took the new one's wish with it"
        bench.stager.go_on.set()
        await bench.until(lambda: new.state is State.DONE)

    run(tmp_path, scenario)


def test_drained_it_tells_who_listens_and_keeps_every_wish(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        stages = [await bench.running(ONE, keep=True), await bench.running(TWO)]
        paused = await bench.stages.ask(wish("file:///paused"), keep=True)
        await bench.stages.pause(paused)
        listener = bench.stages.subscribe(stages[0])
        assert await bench.stages.drain(20)
        events = listener.take()
        assert (events[-1]["event"], events[-1]["kind"]) == ("error", "unavailable")
        assert "shutting down" in str(events[-1]["message"])
        with pytest.raises(Busy, match="shutting down"):
            await bench.stages.ask(wish(ONE), keep=False)
        assert {(kept.ref, kept.is_kept, kept.is_paused) for kept in bench.kept()} == {
            (ONE, True, False),
            (TWO, False, False),
            ("file:///paused", True, True),
        }

    run(tmp_path, scenario)


def test_a_stage_whose_thread_does_not_end_is_not_waited_for_beyond_the_drain(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.stager.resolves.clear()
        await bench.stages.ask(wish(ONE), keep=True)
        await bench.until(lambda: bench.stager.begun)
        assert not await bench.stages.drain(0.01)
        bench.stager.resolves.set()

    run(tmp_path, scenario)


def test_what_was_asked_before_a_restart_goes_on_as_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def first(bench: Bench) -> None:
        await bench.running(ONE, keep=True)
        await bench.running(TWO)
        await bench.stages.pause(await bench.stages.ask(wish("file:///paused"), keep=True))

    async def second(bench: Bench) -> None:
        await bench.until(lambda: len(bench.stager.begun) == 2)
        by_ref = {stage.wish.ref.name: stage for stage in bench.stages.all()}
        assert (by_ref[ONE].is_kept, by_ref[TWO].is_kept) == (True, False)
        assert by_ref["file:///paused"].state is State.PAUSED
        await bench.until(lambda: by_ref[TWO].state is State.FAILED)  # nobody came back for it
        assert by_ref[ONE].state is State.RUNNING

    run(tmp_path, first)
    monkeypatch.setattr(module, "ORPHAN_S", 0.1)
    run(tmp_path, second)


def test_a_signed_url_is_never_written_down(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.running("https://host.test/file?X-Amz-Signature=secret", keep=True)
        assert bench.kept() == []
        assert list((tmp_path / "wishes").iterdir()) == []

    run(tmp_path, scenario)


def test_a_wish_that_cannot_be_written_is_an_error_for_who_wants_it_kept_and_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        def full(_wish: KeptWish) -> None:
            raise Full("no room for a wish")

        monkeypatch.setattr(bench.wishes, "keep", full)
        attached = await bench.running(ONE)
        with pytest.raises(Full, match="no room"):
            await bench.stages.ask(wish(TWO), keep=True)
        await bench.until(lambda: [stage.wish.ref.name for stage in bench.stages.all() if not stage.has_ended] == [ONE])
        bench.stager.go_on.set()
        await bench.until(lambda: attached.state is State.DONE)

    run(tmp_path, scenario)


def test_who_asks_in_vain_for_what_is_kept_already_takes_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        def full(_wish: KeptWish) -> None:
            raise Full("no room for a wish")

        stage = await bench.running(ONE, keep=True)
        monkeypatch.setattr(bench.wishes, "keep", full)
        with pytest.raises(Full):
            await bench.stages.ask(wish(ONE, Priority.WAITING_POD), keep=True)
        assert (stage.is_kept, stage.is_taken_back) == (True, False)

    run(tmp_path, scenario)


def test_a_wish_that_cannot_be_dropped_does_not_end_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        def broken(_wish: KeptWish) -> None:
            raise Unavailable("the disk failed")

        monkeypatch.setattr(bench.wishes, "drop", broken)
        stage = await bench.running(ONE, keep=True)
        bench.stager.go_on.set()
        await bench.until(lambda: stage.state is State.DONE)
        other = await bench.stages.ask(wish(TWO), keep=True)
        await bench.until(lambda: other.state is State.DONE)

    run(tmp_path, scenario)


def _is_done(stage: Stage) -> bool:
    return stage.state is State.DONE


def test_ended_stages_are_remembered_up_to_a_bound_and_unknown_ones_are_told(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(module.REMEMBERED + 20):
            stage = await bench.stages.ask(wish(f"file:///{number}"), keep=False)
            await bench.until(partial(_is_done, stage))
        assert len(bench.stages.all()) == module.REMEMBERED
        with pytest.raises(NotFound, match="no stage"):
            bench.stages.get("0" * 16)

    run(tmp_path, scenario, stager=FakeStager(waits=False))


def test_a_stage_that_failed_is_remembered_without_what_it_worked_with(tmp_path: Path) -> None:
    class Heavy:
        """Manifest, records of every piece."""

    class Failing(FakeStager):
        def stage(self, wish: Wish, origin: Origin, watcher: Watcher, cancel: threading.Event) -> Staged:
            heavy = Heavy()
            left.append(weakref.ref(heavy))
            try:
                raise OSError("the disk")
            except OSError as exc:
                raise Corrupt("wrong bytes") from exc

    left: list[weakref.ref[Heavy]] = []

    async def scenario(bench: Bench) -> None:
        stage = await bench.stages.ask(wish(ONE), keep=False)
        await bench.until(lambda: stage.has_ended)
        gc.collect()
        assert bench.stages.all() == [stage]
        assert isinstance(stage.outcome, Corrupt)
        assert [one() for one in left] == [None]

    run(tmp_path, scenario, stager=Failing())
