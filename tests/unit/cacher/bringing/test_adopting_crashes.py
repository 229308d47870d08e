"""`adopt`, killed before and after each call that changes the disk, and `--take` cut off by power losses: no file is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from bringing import adopting, hub_cache, read_folder, write_folder
from stores.disks import CountingDisk, KillingDisk
from stores.kills import copied
from stores.making import content
from stores.oracle import check_invariants
from stores.powerloss import RecordingDisk, cuts

from prestage.cacher.store.disk import Disk
from prestage.cacher.store.store import Store

FILES = {"config.json": b'{"a": 1}', "deep/model.safetensors": content(9001, "w"), "empty": b""}
KINDS = ("directory", "cache")


def make(top: Path, kind: str) -> None:
    Store.open(top / "store", own=True).close()
    if kind == "directory":
        write_folder(top / "source", FILES)
    else:
        hub_cache(top, FILES, listed=FILES)


def source(top: Path, kind: str) -> Path:
    return top / ("source" if kind == "directory" else "models--org--name")


def take(top: Path, kind: str, disk: Disk | None = None, *, moving: bool = True) -> Path:
    with Store.open(top / "store", own=True, disk=disk) as store:
        if isinstance(disk, CountingDisk):
            disk.armed = True
        with adopting(store) as adopter:
            path = adopter.adopt(source(top, kind), take=moving).staged.path
        if isinstance(disk, CountingDisk):
            disk.armed = False
        return path


def at_source(top: Path, kind: str) -> Mapping[str, bytes]:
    folder = source(top, kind)
    if kind == "directory":
        return read_folder(folder) if folder.exists() else {}
    blobs = folder / "blobs"
    contents = [path.read_bytes() for path in blobs.iterdir()] if blobs.exists() else []
    return {path: data for path, data in FILES.items() if data in contents}


def judge_copy(top: Path) -> None:
    """The source is as it was; what is here is whole or not usable; the same command goes on to the end."""
    with Store.open(top / "store", own=True) as store:
        assert store.warnings == []
        check_invariants(top / "store", {row.artifact: FILES for row in store.list()})
    assert read_folder(take(top, "directory", moving=False)) == FILES
    assert at_source(top, "directory") == FILES


def judge(top: Path, kind: str) -> None:
    """Every file is at the source or usable from the store; the same command goes on to the end."""
    with Store.open(top / "store", own=True) as store:
        assert store.warnings == []
        whole = [row for row in store.list() if row.state == "staged"]
        check_invariants(top / "store", {row.artifact: FILES for row in store.list()})
        here = read_folder(store.path(whole[0].artifact)) if whole else {}
        for path, data in FILES.items():
            assert at_source(top, kind).get(path) == data or here.get(path) == data, f"{path} is lost"
        is_done = bool(whole) and not at_source(top, kind) and not any(row.holds for row in whole)
    if not is_done:
        assert read_folder(take(top, kind)) == FILES
        assert at_source(top, kind) == {}
        with Store.open(top / "store", own=False) as store:
            assert all(not row.holds for row in store.list())


def killed(top: Path, kind: str, fatal: int, *, after: bool, moving: bool = True) -> None:
    child = os.fork()
    if child == 0:
        try:
            take(top, kind, KillingDisk(fatal, after=after), moving=moving)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"call {fatal} was not reached"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_any_step_of_taking_leaves_each_file_there_or_here(kind: str, fast_path: Path) -> None:
    make(fast_path / "base", kind)
    disk = CountingDisk()
    take(copied(fast_path / "base", fast_path / "top"), kind, disk)
    assert disk.calls > 60
    for number in range(0, disk.calls, 2):
        after = number % 4 == 0  # a kill after one call is a kill before the next
        top = copied(fast_path / "base", fast_path / "top")
        killed(top, kind, number, after=after)
        try:
            judge(top, kind)
        except Exception as exc:
            exc.add_note(f"killed {'after' if after else 'before'} call {number}")
            raise


def test_a_kill_at_any_step_of_adopting_leaves_the_source_as_it_was(fast_path: Path) -> None:
    make(fast_path / "base", "directory")
    disk = CountingDisk()
    take(copied(fast_path / "base", fast_path / "top"), "directory", disk, moving=False)
    assert disk.calls > 40
    for number in range(0, disk.calls, 5):  # each step is one of staging, which its own tests kill; here the order counts
        top = copied(fast_path / "base", fast_path / "top")
        killed(top, "directory", number, after=number % 2 == 0, moving=False)
        try:
            judge_copy(top)
        except Exception as exc:
            exc.add_note(f"killed at call {number}")
            raise


def test_a_power_cut_at_any_step_of_taking_leaves_each_file_there_or_here(fast_path: Path) -> None:
    """Of a directory: the model of power cuts knows no symlinks, and the calls are the same."""
    kind = "directory"
    make(fast_path / "top", kind)
    disk = RecordingDisk(fast_path / "top")
    take(fast_path / "top", kind, disk)
    subprocess.run(["rm", "-rf", str(fast_path / "top")], check=True)
    count = 0
    for cut in cuts(disk, samples=2, seed=20_260_101, every=3):
        subprocess.run(["rm", "-rf", str(fast_path / "top")], check=True)
        cut.tree.write(fast_path / "top")
        try:
            judge(fast_path / "top", kind)
        except Exception as exc:
            exc.add_note(cut.point)
            raise
        count += 1
    assert count > len(disk.log) // 3
