"""A cold page cache is proved, not hoped for."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from prestage.bench import cold

_SIZE = 8 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(_SIZE))
    if cold.resident_bytes(path) == 0:
        pytest.skip("this file system keeps no page cache that can be counted")
    return path


def test_what_was_just_written_is_resident(file: Path) -> None:
    assert cold.resident_bytes(file) == _SIZE


def test_dropped_pages_are_gone_also_when_they_were_dirty(file: Path) -> None:
    assert cold.make_cold([file]) == _SIZE
    assert cold.resident_bytes(file) == 0


def test_reading_makes_it_warm_again(file: Path) -> None:
    cold.make_cold([file])
    assert cold.make_warm([file]) == _SIZE
    assert cold.resident_bytes(file) == _SIZE


def test_a_file_of_odd_size_and_an_empty_one_count_in_whole_pages(tmp_path: Path) -> None:
    odd, empty = tmp_path / "odd", tmp_path / "empty"
    odd.write_bytes(b"x" * 5000)
    empty.touch()
    assert cold.resident_bytes(odd) in (0, 8192)
    assert cold.resident_bytes(empty) == 0
    assert cold.make_cold([odd, empty]) == 5000


def test_pages_that_somebody_maps_fail_loudly(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "_PAUSE_S", 0.0)
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[at] for at in range(0, _SIZE, mmap.PAGESIZE)) >= 0
        with pytest.raises(cold.StillWarm, match=r"stay in the page cache"):
            cold.make_cold([file])
    assert cold.make_cold([file]) == _SIZE


def test_both_ways_of_counting_agree_on_a_disk(file: Path) -> None:
    with open(file, "rb") as opened:
        by_cachestat = cold._by_cachestat(opened.fileno(), _SIZE)
        by_mincore = cold._by_mincore(opened.fileno(), _SIZE)
    if by_cachestat == 0:
        pytest.skip("this kernel or file system has no cachestat(2)")
    assert by_cachestat == by_mincore == _SIZE
