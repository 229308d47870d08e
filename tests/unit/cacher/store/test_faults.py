"""A disk that fails: full, broken, read-only or short, at every call of every operation."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest
from stores.disks import FailingDisk, ShortDisk
from stores.kills import calls_of, copied
from stores.making import Model, Steps, content, fill, ingesting, stage
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, OTHER, SCENARIOS, SMALL, TWO_PIECES, Scenario, is_whole

from prestage.cacher.errors import Full, Misconfigured, PrestageError, Unavailable
from prestage.cacher.store.disk import Disk, translated
from prestage.cacher.store.store import Store

FAULTS = {errno.ENOSPC: Full, errno.EDQUOT: Full, errno.EIO: Unavailable, errno.EROFS: Misconfigured}
CHANGING = [scenario for scenario in SCENARIOS if scenario.name not in ("journal", "make room")]


@pytest.fixture
def base(fast_path: Path, scenario: Scenario) -> Path:
    root = fast_path / "base"
    with Store.open(root, own=True) as store:
        scenario.prepare(store)
    return root


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("scenario", CHANGING, ids=str)
def test_a_fault_at_any_call_is_a_clear_error_and_costs_nothing_that_was_done(
    scenario: Scenario, number: int, base: Path, fast_path: Path
) -> None:
    root = fast_path / "faulty"
    for fatal in range(calls_of(scenario, base, root)):
        acks: list[str] = []
        disk = FailingDisk(fatal, number)
        with Store.open(copied(base, root), own=True, budget_bytes=scenario.budget_bytes, disk=disk) as store:
            disk.armed = True
            try:
                scenario.act(store, Steps(acks.append))
            except FAULTS[number] as exc:
                assert str(root) in exc.message
                assert "\n" not in str(exc)
            disk.armed = False
            assert disk.hit
            assert store.room.usage().reserved == 0, "a reservation was not released"
            stage(store, OTHER)
            assert is_whole(store, OTHER)
            store.evict(OTHER.artifact)
        with Store.open(root, own=True, budget_bytes=scenario.budget_bytes) as store:
            check_invariants(root, KNOWN, damaged=scenario.damaged, rotten=scenario.rotten)
            scenario.check(store, acks)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name in ("stage", "heal", "evict")], ids=str)
def test_a_disk_that_stays_broken_leaves_what_recovery_mends(scenario: Scenario, base: Path, fast_path: Path) -> None:
    root = fast_path / "faulty"
    for fatal in range(0, calls_of(scenario, base, root), 2):
        acks: list[str] = []
        disk = FailingDisk(fatal, errno.EIO, times=1_000_000)
        with Store.open(copied(base, root), own=True, disk=disk) as store:
            disk.armed = True
            with pytest.raises(Unavailable):
                scenario.act(store, Steps(acks.append))
        with Store.open(root, own=True) as store:
            check_invariants(root, KNOWN, damaged=scenario.damaged, rotten=scenario.rotten)
            scenario.check(store, acks)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name in ("publish a view", "heal")], ids=str)
def test_a_view_that_could_not_be_made_leaves_no_links(scenario: Scenario, number: int, base: Path, fast_path: Path) -> None:
    root = fast_path / "faulty"
    for fatal in range(calls_of(scenario, base, root)):
        disk = FailingDisk(fatal, number)
        with Store.open(copied(base, root), own=True, disk=disk) as store:
            disk.armed = True
            with suppress(PrestageError):
                scenario.act(store, Steps())
            disk.armed = False
            assert not list((root / "views").glob(".new-*"))
            store.sweep()
            assert not list((root / "views").rglob(".old-*"))
            for row in store.list():
                store.evict(row.artifact)
            assert not [path for path in (root / "views").rglob("*") if path.is_file()], "its room is not free"


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name == "heal"], ids=str)
def test_a_heal_that_failed_leaves_no_second_generation_to_who_holds_it(scenario: Scenario, base: Path, fast_path: Path) -> None:
    root = fast_path / "faulty"
    for fatal in range(calls_of(scenario, base, root)):
        disk = FailingDisk(fatal, errno.ENOSPC)
        with Store.open(copied(base, root), own=True, disk=disk) as store:
            for row in store.list():
                store.hold(row.artifact, kind="pin")
            disk.armed = True
            with suppress(Full):
                scenario.act(store, Steps())
            disk.armed = False
            scenario.act(store, Steps())
            assert max(len(list(view.glob(".old-*"))) for view in (root / "views").iterdir()) == 1


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_short_writes_are_continued(part: float, fast_path: Path) -> None:
    disk = ShortDisk(part)
    with Store.open(fast_path / "store", own=True, disk=disk) as store:
        stage(store, SMALL)
        stage(store, TWO_PIECES)
        assert is_whole(store, SMALL)
        assert is_whole(store, TWO_PIECES)
        assert disk.shortened > 10
        assert store.verify().bad == []


def test_a_disk_that_takes_no_bytes_is_an_error_and_not_a_hang(fast_path: Path) -> None:
    class Stuck(ShortDisk):
        def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
            return 0

    with pytest.raises(Unavailable, match="takes no bytes"):
        Store.open(fast_path / "store", own=True, disk=Stuck())


def test_a_store_that_is_deleted_under_a_running_fetch_is_a_clear_error(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root, own=True) as store:
        store.put_manifest(SMALL.manifest)
        path = "sub/dir/weights.bin"
        with ingesting(store, SMALL, path) as ingest:
            fill(ingest, SMALL.contents[path])
            root.rename(tmp_path / "elsewhere")
            with pytest.raises(Unavailable, match="is gone"):
                ingest.finish()
        with pytest.raises(PrestageError):
            store.publish_view(SMALL.artifact)


def test_what_does_not_fit_leaves_no_ingest_behind(fast_path: Path) -> None:
    model = Model({"a": content(100_000, "a")})

    class Small(FailingDisk):
        def allocate(self, fd: int, size_bytes: int, path: Path) -> None:
            raise Full(f"no space left on the disk for {path}")

    with Store.open(fast_path / "store", own=True, disk=Small(0, errno.ENOSPC)) as store:
        store.put_manifest(model.manifest)
        with pytest.raises(Full), store.reserve(model.size_bytes, artifact=model.artifact), ingesting(store, model, "a"):
            raise AssertionError("it was opened")
        assert list((store.root / "ingest").iterdir()) == []
        assert store.room.usage().reserved == 0


def test_a_file_system_without_direct_io_is_written_through_the_page_cache(fast_path: Path) -> None:
    class Buffered(Disk):
        refused = 0

        def create(self, path: Path, *, direct: bool = False) -> int:
            if not direct:
                return super().create(path)
            self.refused += 1
            cause = OSError(errno.EINVAL, "Invalid argument")
            raise translated(cause, path) from cause

    disk = Buffered()
    with Store.open(fast_path / "store", own=True, disk=disk) as store:
        stage(store, TWO_PIECES)
        assert is_whole(store, TWO_PIECES)
        assert store.verify().bad == []
    assert disk.refused == 1


def test_a_file_is_written_past_the_page_cache_on_a_real_disk(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", own=True) as store:
        stage(store, TWO_PIECES)
        assert is_whole(store, TWO_PIECES)
        assert store.verify().bad == []
        assert store.path(TWO_PIECES.artifact).joinpath("big.bin").stat().st_size == TWO_PIECES.size_bytes
