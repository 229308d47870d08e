"""Adopting where blocks can be shared: real xfs and btrfs on loop devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bringing import adopting, mounted, read_folder, write_folder
from commands import Prestage
from stores.disks import CountingDisk, KillingDisk
from stores.making import content
from stores.oracle import check_invariants
from stores.powerloss import RecordingDisk, cuts, distinct

from prestage.cacher.store.store import Store

FILES = {"config.json": b"{}", "model.safetensors": content(150 << 20, "w"), "odd": content(12_345, "odd"), "empty": b""}


@pytest.fixture(
    params=[
        pytest.param("xfs", marks=pytest.mark.needs("mount", "mkfs.xfs")),
        pytest.param("btrfs", marks=pytest.mark.needs("mount", "mkfs.btrfs")),
    ]
)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path / "image", tmp_path / "disk") as mount:
        yield mount


def used_bytes(disk: Path) -> int:
    os.sync()
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def test_blocks_are_shared_verified_and_apart_from_then_on(disk: Path) -> None:
    source = write_folder(disk / "model", FILES)
    prestage = Prestage(disk / "store", {"NO_COLOR": "1"})
    before = used_bytes(disk)
    adopted = prestage("adopt", str(source), "--json")
    assert adopted.code == 0, adopted.err
    assert adopted.last["bytes_by_source"] == {"clone": sum(map(len, FILES.values()))}
    assert used_bytes(disk) - before < 20 << 20, "the bytes were copied"
    view = Path(adopted.last["path"])
    (source / "odd").write_bytes(b"written to after it was adopted")
    with (source / "model.safetensors").open("r+b") as file:
        file.write(b"overwritten in place")
    assert read_folder(view) == FILES
    assert prestage("verify").code == 0


def test_a_model_that_fills_more_than_half_the_disk_is_adopted_there(disk: Path) -> None:
    source = write_folder(disk / "model", {f"{number}.bin": content(75 << 20, str(number)) for number in range(3)})
    prestage = Prestage(disk / "store", {"NO_COLOR": "1"})
    right = read_folder(source)
    cloned = prestage("adopt", str(source), "--json")
    assert cloned.code == 0, cloned.err
    taken = prestage("adopt", str(source), "--take", "--json")
    assert taken.code == 0, taken.err
    assert not source.exists()
    assert read_folder(Path(taken.last["path"])) == right


def test_taking_from_another_disk_copies_and_then_removes(disk: Path, tmp_path: Path) -> None:
    source = write_folder(disk / "model", FILES)
    prestage = Prestage(tmp_path / "store", {"NO_COLOR": "1"})
    taken = prestage("adopt", str(source), "--take", "--json")
    assert taken.code == 0, taken.err
    assert taken.last["bytes_by_source"] == {"origin": sum(map(len, FILES.values()))}
    assert not source.exists()
    assert read_folder(Path(taken.last["path"])) == FILES


def test_a_stage_of_a_directory_shares_its_blocks_too(disk: Path) -> None:
    source = write_folder(disk / "model", FILES)
    staged = Prestage(disk / "store", {"NO_COLOR": "1"})("stage", source.as_uri(), "--json")
    assert staged.last["bytes_by_source"] == {"clone": sum(map(len, FILES.values()))}


SMALL = {"config.json": b"{}", "model.safetensors": content(9001, "w")}


@pytest.mark.slow
def test_a_power_cut_at_any_step_of_cloning_publishes_nothing_wrong(disk: Path) -> None:
    top = disk / "top"
    write_folder(top / "source", SMALL)
    Store.open(top / "store", own=True).close()
    recorder = RecordingDisk(top)
    with Store.open(top / "store", own=True, disk=recorder) as store, adopting(store) as adopter:
        assert set(adopter.adopt(top / "source").staged.bytes_by_source) == {"clone"}
    for cut in distinct(cuts(recorder, samples=2, seed=7, every=4)):
        subprocess.run(["rm", "-rf", str(top)], check=True)
        cut.tree.write(top)
        with Store.open(top / "store", own=True) as store:
            check_invariants(top / "store", {row.artifact: SMALL for row in store.list()})
            assert all(read_folder(store.path(row.artifact)) == SMALL for row in store.list() if row.state == "staged"), cut.point
            with adopting(store) as adopter:
                assert read_folder(adopter.adopt(top / "source").staged.path) == SMALL
        assert read_folder(top / "source") == SMALL


def test_a_kill_at_any_step_of_cloning_is_gone_on_from(disk: Path) -> None:
    def adopt(killer: CountingDisk) -> None:
        with Store.open(disk / "store", own=True, disk=killer) as store, adopting(store) as adopter:
            killer.armed = True
            adopter.adopt(disk / "source")
            killer.armed = False

    write_folder(disk / "source", SMALL)
    counter = CountingDisk()
    adopt(counter)
    for number in range(0, counter.calls, 9):
        subprocess.run(["rm", "-rf", str(disk / "store")], check=True)
        child = os.fork()
        if child == 0:
            try:
                adopt(KillingDisk(number, after=bool(number % 2)))
            finally:
                os._exit(3)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with Store.open(disk / "store", own=True) as store:
            assert store.warnings == []
            check_invariants(disk / "store", {row.artifact: SMALL for row in store.list()})
            with adopting(store) as adopter:
                assert read_folder(adopter.adopt(disk / "source").staged.path) == SMALL
