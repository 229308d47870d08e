"""Mapping, residency, windows and the order of errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.bench.cold import StillWarm, make_cold, resident_bytes
from prestage.loader import pages
from prestage.loader.mapped import MappedFile
from prestage.loader.sweep import WINDOW_BYTES, sweep, windows

SIZE = 24 << 20


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("big") / "big"
    file.write_bytes(os.urandom(1 << 20) * 24)
    try:
        make_cold([file])
    except StillWarm:
        pytest.skip("the temporary folder lies in memory (tmpfs), which has no cold state")
    return file


@given(start=st.integers(0, 10**9), length=st.integers(0, 10**9), align=st.sampled_from([4096, 1 << 20, 4 << 20, 64 << 20]))
def test_windows_cover_a_range_once_and_break_at_whole_chunks(start: int, length: int, align: int) -> None:
    found = windows(start, start + length, align)
    assert sum(stop - begin for begin, stop in found) == length
    assert all(begin < stop for begin, stop in found)
    assert [begin for begin, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert all(begin % align == 0 for begin, _ in found[1:])
    assert all(stop - begin <= max(WINDOW_BYTES, align) for begin, stop in found)


def test_the_error_of_the_first_window_is_raised_though_a_later_one_fails_sooner() -> None:
    def work(start: int, stop: int) -> None:
        if start == 1:
            time.sleep(0.05)
        if start in (1, 3):
            raise ValueError(start)

    with pytest.raises(ValueError, match="1"):
        sweep([(number, number + 1) for number in range(6)], work)


def test_after_an_error_no_window_runs_on() -> None:
    ran = list[int]()

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise ValueError(start)
        time.sleep(0.001)
        ran.append(start)

    with pytest.raises(ValueError, match="0"):
        sweep([(number, number + 1) for number in range(1000)], work)
    count = len(ran)
    time.sleep(0.02)
    assert len(ran) == count < 999
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prestage-loader")]


@pytest.mark.parametrize("act", [MappedFile.populate, MappedFile.touch])
@pytest.mark.parametrize("hints", [False, True])
def test_a_cold_range_is_in_memory_afterwards(big_file: Path, act: Callable[[MappedFile, int, int], None], hints: bool) -> None:
    make_cold([big_file])
    file = MappedFile(str(big_file))
    file._hints = hints
    assert not file.is_resident(4 << 20)
    act(file, 0, SIZE)
    assert resident_bytes(big_file) == SIZE
    assert file.is_resident(4 << 20)


def test_residency_does_not_need_to_own_the_mapping_of_others(big_file: Path) -> None:
    make_cold([big_file])
    file = MappedFile(str(big_file))
    assert [file.is_resident(offset) for offset in (4096, SIZE - 1)] == [False, False]
    big_file.read_bytes()
    assert [file.is_resident(offset) for offset in (4096, SIZE - 1)] == [True, True]


def test_a_kernel_without_populate_leaves_pages_to_be_faulted(big_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_MADV_POPULATE_READ", 9999)
    file = MappedFile(str(big_file))
    file.populate(0, SIZE)
    assert bytes(file.view[:16]) == big_file.read_bytes()[:16]


def test_what_lies_beyond_the_end_of_a_shrunken_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 << 10))
    file = MappedFile(str(tmp_path / "file"))
    os.truncate(tmp_path / "file", 4096)
    file.populate(0, 4096)
    with pytest.raises(OSError, match="bytes 8192-65536 cannot be read"):
        file.populate(8192, 64 << 10)


def test_descriptors_go_with_the_file_and_the_memory_stays_with_its_view(big_file: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = MappedFile(str(big_file))
    file.is_resident(0)
    view = file.view[:16]
    del file
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert str(big_file) in Path("/proc/self/maps").read_text()
    assert bytes(view) == big_file.read_bytes()[:16]
    view.release()
    del view
    assert str(big_file) not in Path("/proc/self/maps").read_text()
