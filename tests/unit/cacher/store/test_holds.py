"""Holds: pins, times and processes; other processes; clocks that jump."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.making import stage
from stores.scenarios import OTHER, SMALL, is_whole

from prestage.cacher.digests import hex_of
from prestage.cacher.errors import Busy, Misconfigured, NotFound
from prestage.cacher.store.disk import Disk
from prestage.cacher.store.holds import Clocks, Holds, started_ticks
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.store import Store

CACHER = Path(__file__).parents[4] / "cacher"


@pytest.fixture
def store(fast_path: Path) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True) as store:
        stage(store, SMALL)
        yield store


class Clock:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall, self.boot = 1_000_000.0, 500.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def test_a_pin_lasts_until_unpinned_over_restarts(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        store.hold(SMALL.artifact, kind="pin", note="prod")
        store.hold(SMALL.artifact, kind="pin", note="again")
    with Store.open(root, own=True) as store:
        with pytest.raises(Busy, match=r"held by pin \(.*unpin"):
            store.evict(SMALL.artifact)
        assert store.unpin(SMALL.artifact) == 2
        store.evict(SMALL.artifact)
        assert store.list() == []


def test_only_what_is_staged_can_be_held(store: Store) -> None:
    store.put_manifest(OTHER.manifest)
    with pytest.raises(NotFound, match="stage it first"):
        store.hold(OTHER.artifact, kind="pin")


def test_a_ttl_needs_an_end(store: Store) -> None:
    with pytest.raises(Misconfigured, match="expires_at"):
        store.hold(SMALL.artifact, kind="ttl")


def test_a_ttl_ends_by_itself_and_its_file_goes_at_the_next_start(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        store.hold(SMALL.artifact, kind="ttl", expires_at=time.time() + 3)
        with pytest.raises(Busy):
            store.evict(SMALL.artifact)
        deadline_s = time.monotonic() + 20
        while store.list()[0].holds and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert store.list()[0].holds == []
    with Store.open(root, own=True):
        assert list((root / "holds").iterdir()) == []


@pytest.mark.parametrize("jump_s", [-10_000_000, 10_000_000, -1, 3600])
def test_a_clock_that_is_set_ends_no_ttl_early_and_none_late(jump_s: float, store: Store) -> None:
    clock = Clock()
    holds = Holds(Layout(store.root), Disk(), clock.clocks())
    holds.add(SMALL.artifact, "ttl", expires_at=clock.wall + 60)
    clock.passes(30)
    clock.wall += jump_s
    assert len(holds.live(SMALL.artifact)) == 1
    clock.passes(31)
    assert len(holds.live(SMALL.artifact)) == 0


def test_after_a_reboot_a_ttl_goes_by_the_wall_clock_and_a_run_is_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    holds = Holds(Layout(store.root), Disk(), clock.clocks())
    holds.add(SMALL.artifact, "ttl", expires_at=clock.wall + 60)
    holds.add(SMALL.artifact, "run", pid=os.getpid())
    assert len(holds.live(SMALL.artifact)) == 2
    monkeypatch.setattr("prestage.cacher.store.holds.boot_id", lambda: "another boot")
    clock.boot = 5.0
    assert [hold["kind"] for hold in holds.live(SMALL.artifact).values()] == ["ttl"]
    clock.wall += 61
    assert holds.live(SMALL.artifact) == {}


def test_a_run_lasts_as_long_as_its_process_and_not_as_its_number(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store.hold(SMALL.artifact, kind="run", pid=child.pid)
    with pytest.raises(Busy, match=f"pid {child.pid}"):
        store.evict(SMALL.artifact)
    child.communicate(b"\n")
    assert started_ticks(child.pid) is None
    assert store.list()[0].holds == []
    path = next((store.root / "holds" / hex_of(SMALL.artifact)).glob("run-*.json"))
    path.chmod(0o600)
    reused = path.read_text().replace(f'"pid": {child.pid}', f'"pid": {os.getpid()}')
    path.write_text(reused)
    assert store.list()[0].holds == [], "a process that got the number later holds nothing"


def test_a_hold_that_cannot_be_read_holds(store: Store) -> None:
    folder = store.root / "holds" / hex_of(SMALL.artifact)
    folder.mkdir(exist_ok=True)
    (folder / "x.json").write_bytes(b"\x00garbage")
    with pytest.raises(Busy, match="unreadable"):
        store.evict(SMALL.artifact)
    store.unpin(SMALL.artifact)
    assert store.evict(SMALL.artifact) > 0


SECOND_PROCESS = """
import sys
from pathlib import Path
from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.store import Store

with Store.open(Path(sys.argv[1]), own=False) as store:
    artifact = ArtifactId(sys.argv[2])
    hold = store.hold(artifact, kind="run", note="second process")
    print(store.path(artifact), flush=True)
    sys.stdin.readline()
    if sys.argv[3] == "drop":
        store.drop_hold(artifact, hold)
"""


@pytest.mark.parametrize("how", ["drop", "die"])
def test_a_second_process_holds_beside_the_owner(store: Store, how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CACHER)}
    command = [sys.executable, "-c", SECOND_PROCESS, str(store.root), SMALL.artifact, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline().strip() == str(store.path(SMALL.artifact))
        with pytest.raises(Busy, match="second process"):
            store.evict(SMALL.artifact)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.wait(20) == 0
    assert store.list()[0].holds == []
    assert store.evict(SMALL.artifact) > 0


def test_a_hold_and_an_evict_at_the_same_time_never_both_succeed(fast_path: Path) -> None:
    root = fast_path / "store"
    outcomes = set()
    with Store.open(root, own=True) as store, Store.open(root, own=False) as reader:
        for _ in range(40):
            stage(store, SMALL)
            done: list[str] = []
            start = threading.Barrier(2)

            def hold(done: list[str] = done, start: threading.Barrier = start) -> None:
                start.wait()
                try:
                    reader.hold(SMALL.artifact, kind="pin")
                    done.append("held")
                except NotFound:
                    done.append("gone")

            thread = threading.Thread(target=hold)
            thread.start()
            start.wait()
            try:
                store.evict(SMALL.artifact)
                done.append("evicted")
            except Busy:
                done.append("busy")
            thread.join()
            outcomes.add(tuple(sorted(done)))
            if "held" in done:
                assert is_whole(store, SMALL)
                store.unpin(SMALL.artifact)
    assert outcomes <= {("busy", "held"), ("evicted", "gone")}
    assert outcomes


def test_what_a_heal_replaced_goes_with_its_last_hold(store: Store) -> None:
    from stores.scenarios import damage

    hold = store.hold(SMALL.artifact, kind="pin")
    old = (store.path(SMALL.artifact) / "sub/dir/weights.bin").open("rb")
    damage(store, SMALL, "sub/dir/weights.bin")
    assert store.verify().quarantined
    stage(store, SMALL)
    view = store.root / "views" / hex_of(SMALL.artifact)
    with old:
        assert len(old.read()) == 9001, "a running process keeps what it opened"
    assert is_whole(store, SMALL)
    assert len(list(view.glob(".old-*"))) == 1
    store.drop_hold(SMALL.artifact, hold)
    assert list(view.glob(".old-*")) == []
    assert is_whole(store, SMALL)
