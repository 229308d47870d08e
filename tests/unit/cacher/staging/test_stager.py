"""Several callers of one artifact are one run; who leaves takes nobody with him; files that artifacts share come once."""

from __future__ import annotations

import errno
import mmap
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prestage.cacher.digests import ArtifactId, Digest
from prestage.cacher.errors import Bug, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.ports import FileRead, Next, Selection, Verdict
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.staging.run import Run
from prestage.cacher.store.store import Store
from prestage.cacher.transfer import ordered
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Limits, Priority
from prestage.cacher.transfer.ports import Cancelled
from servers import faults
from servers.hostile import Hostile

QUICK = Limits(
    connections_start=4, connections_max=8, backoff_base_s=0.01, backoff_cap_s=0.05, journal_interval_s=0.05, hedge_after_s=1e9
)
"""No hedges: what is sent is counted."""
WEIGHTS = random.Random(1).randbytes(1_300_000)


@dataclass
class Origin:
    """Files of one authority behind the hostile server."""

    server: Hostile
    files: Mapping[str, bytes]
    revision: str = "1"
    resolved: int = 0

    def __post_init__(self) -> None:
        for name, data in self.files.items():
            self.server.put(f"/{name}", data)

    def resolve(self, selection: Selection) -> Manifest:
        self.resolved += 1
        files = [FileEntry(name, len(data), version=f"v-{name}") for name, data in self.files.items()]
        return manifest_of("test:authority", "", files, revision=self.revision)

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest | FileRead:
        return HttpRequest(self.server.url(f"/{file.path}"))

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        if head.status == 404:
            return Verdict(Next.FATAL, "gone", error=NotFound(f"{file.path} is gone", hint="stage something else"))
        return Verdict(Next.RETRY, f"status {head.status}")

    def refresh(self, file: FileEntry) -> None:
        raise AssertionError("nothing here expires")


@dataclass
class Listener(Watcher):
    """Remembers; may raise."""

    raises: BaseException | None = None
    heard: list[str] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=set)
    has_progress: threading.Event = field(default_factory=threading.Event)
    slow_s: float = 0.0

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self.threads.add(threading.current_thread())

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        self._hear("resolved")

    def progress(self, progress: Progress) -> None:
        self._hear("progress")
        self.has_progress.set()
        time.sleep(self.slow_s)
        if self.raises is not None:
            raise self.raises

    def verifying(self) -> None:
        self._hear("verifying")


class Desk:
    """A stager over a real store and engine, asked from many threads."""

    def __init__(self, store: Store, server: Hostile, stager: Stager, pool: ThreadPoolExecutor) -> None:
        self.store, self.server, self.stager, self.pool = store, server, stager, pool

    def ask(
        self,
        origin: Origin,
        *,
        name: str = "file:///model",
        watcher: Watcher | None = None,
        cancel: threading.Event | None = None,
        priority: Priority = Priority.DECLARED,
    ) -> Future[Staged]:
        wish = Wish(parse_ref(name), priority=priority)
        return self.pool.submit(self.stager.stage, wish, origin, watcher, cancel)

    def slowly(self, rate_bytes_per_s: float = 1e6) -> None:
        self.server.choose = lambda request: faults.Drip(rate_bytes_per_s)

    def quickly(self) -> None:
        self.server.choose = lambda request: None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as closing:
        store = closing.enter_context(Store.open(tmp_path / "store", own=True))
        engine = closing.enter_context(Engine(QUICK))
        client = HttpClient()
        closing.callback(client.close)
        server = closing.enter_context(Hostile())
        pool = closing.enter_context(ThreadPoolExecutor(16))
        yield Desk(store, server, Stager(store, engine, client), pool)


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_several_callers_are_one_transfer_and_each_hears_in_his_own_thread(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly()
    listeners = [Listener() for _ in range(5)]
    asked = [desk.ask(origin, watcher=listener, name=f"file:///name-{number}") for number, listener in enumerate(listeners)]
    for listener in listeners:
        assert listener.has_progress.wait(30)
    desk.quickly()
    results = [one.result(60) for one in asked]
    assert len({result.artifact for result in results}) == 1
    assert desk.server.sent_bytes == len(WEIGHTS)
    assert all(listener.heard[0] == "resolved" for listener in listeners)
    threads = [listener.threads for listener in listeners]
    assert all(len(own) == 1 for own in threads)
    assert len(set.union(*threads)) == 5
    for number in range(5):
        assert desk.store.lookup(f"file:///name-{number}") == results[0].artifact, "a caller's ref was not remembered"


def test_who_leaves_takes_nobody_with_him_and_the_last_one_ends_it(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly(2e5)
    leaves, stays = threading.Event(), threading.Event()
    first_heard, second_heard = Listener(), Listener()
    first = desk.ask(origin, watcher=first_heard, cancel=leaves)
    assert first_heard.has_progress.wait(30)
    second = desk.ask(origin, watcher=second_heard, cancel=stays)
    assert second_heard.has_progress.wait(30)
    leaves.set()
    with pytest.raises(Cancelled):
        first.result(30)
    assert not second.done()
    requests = len(desk.server.requests)
    stays.set()
    with pytest.raises(Cancelled):
        second.result(30)
    assert len(desk.server.requests) == requests
    desk.quickly()
    assert desk.ask(origin).result(60).bytes == len(WEIGHTS)


def test_what_became_whole_while_the_last_one_left_is_known_by_his_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, is_whole = Run.stage, threading.Event()

    def stage(self: Run) -> Staged:
        staged = whole(self)
        is_whole.set()
        assert self.cancel.wait(30)  # he has left
        return staged

    monkeypatch.setattr(Run, "stage", stage)
    leaves = threading.Event()
    asked = desk.ask(Origin(desk.server, {"weights.bin": WEIGHTS}), cancel=leaves)
    assert is_whole.wait(30)
    leaves.set()
    with pytest.raises(Cancelled):
        asked.result(30)
    [row] = desk.store.list()
    assert row.state == "staged"
    assert desk.store.lookup("file:///model") == row.artifact


def test_a_watcher_that_raises_hurts_nobody_but_his_caller(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly(5e5)
    bystander = Listener()
    other = desk.ask(origin, watcher=bystander)
    assert bystander.has_progress.wait(30)
    broken = desk.ask(origin, watcher=Listener(raises=BrokenPipeError("head has gone")))
    with pytest.raises(BrokenPipeError):
        broken.result(30)
    desk.quickly()
    assert other.result(60).bytes == len(WEIGHTS)


def test_a_watcher_who_is_slow_hears_the_newest_progress_and_delays_nobody(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly(4e6)
    slow, quick = Listener(slow_s=0.5), Listener()
    asked = [desk.ask(origin, watcher=watcher) for watcher in (slow, quick)]
    assert asked[1].result(60).bytes == len(WEIGHTS)
    asked[0].result(60)
    assert slow.heard.count("progress") <= quick.heard.count("progress") + 1


def test_an_error_is_everybodys_and_the_next_one_starts_anew(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly(3e5)
    listeners = [Listener() for _ in range(3)]
    asked = [desk.ask(origin, watcher=listener) for listener in listeners]
    for listener in listeners:
        assert listener.has_progress.wait(30)
    desk.server.choose = lambda request: faults.Status(404)
    errors = []
    for one in asked:
        try:
            one.result(60)
        except PrestageError as exc:
            errors.append(exc)
    # what was under way may have come through: then it is there for all
    assert len(errors) in (0, 3)
    assert len({id(error) for error in errors}) <= 1
    desk.quickly()
    assert desk.ask(origin).result(60).bytes == len(WEIGHTS)


def test_two_artifacts_that_share_a_file_fetch_it_once_and_the_rest_in_parallel(desk: Desk) -> None:
    shared, mine, his = WEIGHTS, WEIGHTS[:900_000] + b"m", WEIGHTS[:900_000] + b"h"
    one = Origin(desk.server, {"shared.bin": shared, "mine.bin": mine}, revision="1")
    two = Origin(desk.server, {"shared.bin": shared, "his.bin": his}, revision="2")
    desk.slowly(1e6)
    heard = Listener()
    first = desk.ask(one, name="file:///one", watcher=heard)
    assert heard.has_progress.wait(30)
    second = desk.ask(two, name="file:///two", priority=Priority.WAITING_POD)
    until(lambda: desk.server.gets("/his.bin"))
    assert not first.done(), "the second waited for the first before it fetched what is its own"
    desk.quickly()
    results = [first.result(60), second.result(60)]
    assert results[0].artifact != results[1].artifact
    assert desk.server.sent_bytes == len(shared) + len(mine) + len(his)
    assert (results[1].path / "shared.bin").read_bytes() == shared
    assert results[1].bytes_by_source["store"] == len(shared)


def test_who_waits_for_a_shared_file_fetches_it_himself_when_the_other_gives_up(desk: Desk) -> None:
    one = Origin(desk.server, {"shared.bin": WEIGHTS}, revision="1")
    two = Origin(desk.server, {"shared.bin": WEIGHTS, "small.bin": b"s"}, revision="2")
    desk.slowly(3e5)
    heard, gives_up = Listener(), threading.Event()
    first = desk.ask(one, name="file:///one", watcher=heard, cancel=gives_up)
    assert heard.has_progress.wait(30)
    second = desk.ask(two, name="file:///two")
    until(lambda: desk.server.gets("/small.bin"))
    gives_up.set()
    with pytest.raises(Cancelled):
        first.result(30)
    desk.quickly()
    assert (second.result(60).path / "shared.bin").read_bytes() == WEIGHTS


def test_urgency_is_inherited_by_the_run_that_has_the_shared_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    urged: list[Priority] = []
    real = Engine.urge

    def urge(engine: Engine, job: object, priority: Priority) -> None:
        urged.append(priority)
        real(engine, job, priority)  # type: ignore[arg-type] # handed through

    monkeypatch.setattr(Engine, "urge", urge)
    one = Origin(desk.server, {"shared.bin": WEIGHTS}, revision="1")
    two = Origin(desk.server, {"shared.bin": WEIGHTS, "small.bin": b"s"}, revision="2")
    desk.slowly(3e5)
    heard = Listener()
    first = desk.ask(one, name="file:///one", watcher=heard, priority=Priority.FOLLOW_ON)
    assert heard.has_progress.wait(30)
    assert Priority.WAITING_POD not in urged
    second = desk.ask(two, name="file:///two", priority=Priority.WAITING_POD)
    until(lambda: urged.count(Priority.WAITING_POD) >= 2)  # its own job, and the one it waits for
    desk.quickly()
    first.result(60)
    second.result(60)


def test_a_caller_joins_with_his_own_urgency_and_by_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    urged: list[Priority] = []
    real = Engine.urge

    def urge(engine: Engine, job: object, priority: Priority) -> None:
        urged.append(priority)
        real(engine, job, priority)  # type: ignore[arg-type] # handed through

    monkeypatch.setattr(Engine, "urge", urge)
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    desk.slowly(3e5)
    heard = Listener()
    first = desk.ask(origin, watcher=heard, priority=Priority.FOLLOW_ON)
    assert heard.has_progress.wait(30)
    artifact = origin.resolve(Selection()).artifact
    desk.stager.urge(artifact, Priority.DECLARED)
    assert urged[-1] is Priority.DECLARED
    desk.stager.urge(ArtifactId("sha256:" + "0" * 64), Priority.WAITING_POD)
    assert urged[-1] is Priority.DECLARED
    second = desk.ask(origin, priority=Priority.WAITING_POD)
    until(lambda: urged[-1] is Priority.WAITING_POD)
    desk.quickly()
    first.result(60)
    second.result(60)


def test_a_pin_that_is_not_what_the_origin_has_is_a_miss_before_anything_is_fetched(desk: Desk) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    wish = Wish(parse_ref(f"file:///model@{Digest('sha256:' + '0' * 64)}"))
    with pytest.raises(NotFound, match="not the pinned"):
        desk.stager.stage(wish, origin)
    assert desk.server.requests == []


@dataclass
class Lying(Origin):
    """Its manifest states a digest that is not the bytes'."""

    def resolve(self, selection: Selection) -> Manifest:
        file = FileEntry("weights.bin", len(WEIGHTS), digest=Digest("sha256:" + "0" * 64))
        return manifest_of("test:authority", "", [file], revision=self.revision)


def test_bytes_that_could_not_be_hashed_are_not_published(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    given = mmap.mmap

    def of_no_hasher(file: int, length: int) -> mmap.mmap:
        if length == ordered.READ_BYTES + mmap.PAGESIZE:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return given(file, length)

    monkeypatch.setattr(mmap, "mmap", of_no_hasher)
    origin = Lying(desk.server, {"weights.bin": WEIGHTS})
    with pytest.raises(Unavailable, match="gives no memory"):
        desk.ask(origin).result(60)
    monkeypatch.setattr(ordered.Follower, "run", lambda follower: None)
    with pytest.raises(Bug, match="not hashed"):
        desk.ask(origin).result(60)
    assert list(desk.store.binding(origin.resolve(Selection()).artifact)) == []


def test_a_run_whose_thread_the_system_refuses_is_none_that_others_wait_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Origin(desk.server, {"weights.bin": WEIGHTS})
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "prestage-stage":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(Unavailable, match="gives no thread"):
        desk.ask(origin).result(20)
    monkeypatch.setattr(threading.Thread, "start", start)
    desk.ask(origin).result(60)


def test_many_who_come_and_go_end_with_it_whole(desk: Desk) -> None:
    """Callers at random moments, half of them leaving: the ones who stay have it, and nothing is left running."""
    origin = Origin(desk.server, {f"part-{number}": WEIGHTS[:400_000] + bytes([number]) for number in range(4)})
    rng = random.Random(5)
    desk.slowly(8e5)
    asked: list[tuple[Future[Staged], bool]] = []
    for _ in range(14):
        cancel, leaves = threading.Event(), rng.random() < 0.5
        asked.append((desk.ask(origin, cancel=cancel), leaves))
        if leaves:
            threading.Timer(rng.uniform(0, 0.5), cancel.set).start()
        time.sleep(rng.uniform(0, 0.08))
    desk.quickly()
    outcomes: list[Staged] = []
    for one, leaves in asked:
        try:
            outcomes.append(one.result(60))
        except Cancelled:
            assert leaves
    assert len(outcomes) >= sum(not leaves for _, leaves in asked)
    assert desk.store.verify().bad == []
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "prestage-stage"])
