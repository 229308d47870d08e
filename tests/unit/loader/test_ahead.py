"""What is resident is asked for as seldom as will do, and is in the page table before its user gets there."""

from __future__ import annotations

import _thread
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loading import View, bytes_tensors, make_view

from prestage.bench.cold import make_cold
from prestage.loader import ahead, open_model, residency
from prestage.loader.memory.region import Region

MIB = 1 << 20
SIZES = {"a": 20 * MIB, "b": 12 * MIB}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


@pytest.fixture
def view(tmp_path: Path) -> View:
    return make_view(tmp_path, {"model.safetensors": bytes_tensors(SIZES)}, chunk_bytes=MIB)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the file that were asked for."""
    real, places = residency.is_resident, list[int]()

    def is_resident(probe: int, offset: int) -> bool | None:
        places.append(offset)
        return real(probe, offset)

    turns = itertools.count()

    def drawn(size_bytes: int) -> bytes:
        """Another place in each part at every question, and never the first page: opening the shard has left that resident."""
        place = (0.5 + 0.618 * next(turns)) % 1
        return int(place * (1 << 32)).to_bytes(4, sys.byteorder) * (size_bytes // 4)

    monkeypatch.setattr(residency, "is_resident", is_resident)
    monkeypatch.setattr(os, "urandom", drawn)
    return places


def entered_bytes(path: str) -> int:
    """Of maps of the file, in this process' page table."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split()[0].count("-") == 1 and not line.split()[0].endswith(":"):
            inside = line.endswith(path)
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def wait_for(happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not happened() and time.monotonic() < until:
        time.sleep(0.005)
    return happened()


def test_maps_are_in_the_page_table_though_nobody_touched_them(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_RUN_BYTES", 8 * MIB)
    Path(view.file()).read_bytes()
    with open_model(view.folder, framework="np", verify="off") as model:
        kept = dict(model.items())
    assert wait_for(lambda: entered_bytes(view.file()) >= 32 * MIB)
    del kept
    gc.collect()
    assert wait_for(lambda: not entered_bytes(view.file()))


def test_a_short_load_has_no_use_for_a_thread(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_enter", lambda _: pytest.fail("a thread was started"))
    Path(view.file()).read_bytes()
    with open_model(view.folder, framework="np", verify="off") as model:
        assert len(dict(model.items())) == 2


def test_where_no_thread_is_to_be_had_what_is_resident_is_loaded_all_the_same(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[object]()

    def refused(*_: object) -> int:
        tried.append(_)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ahead, "_RUN_BYTES", 8 * MIB)
    monkeypatch.setattr(_thread, "start_new_thread", refused)
    Path(view.file()).read_bytes()
    with open_model(view.folder, framework="np", verify="off") as model:
        assert len(dict(model.items())) == 2
    assert len(tried) == 1


def test_what_is_gone_is_not_entered(view: View) -> None:
    region = Region(32 * MIB)
    with open(view.file(), "rb") as source:
        region.show_file(source.fileno(), 0, 32 * MIB, view.file())
    first, later = region.populating(0, 8 * MIB), region.populating(8 * MIB, 16 * MIB)
    assert first()
    assert 8 * MIB <= entered_bytes(view.file()) < 16 * MIB
    region.view.release()
    del region
    assert not later()
    assert not entered_bytes(view.file())


@pytest.mark.parametrize("verify", ["off", "require"])
def test_a_shard_that_is_all_there_or_not_at_all_is_asked_once(view: View, asked: list[int], verify: str) -> None:
    make_cold([Path(view.file())])
    for way in ("O_DIRECT", "mapped"):
        asked.clear()
        with open_model(view.folder, framework="np", verify=verify) as model:
            dict(model.items())
            assert model.report()["ways"].keys() == {way}  # type: ignore[attr-defined] # a dict
        assert len(asked) == 16
        Path(view.file()).read_bytes()


def test_a_shard_that_is_there_in_parts_is_asked_block_by_block(view: View, asked: list[int]) -> None:
    file = Path(view.file())
    make_cold([file])
    with open(file, "rb", buffering=0) as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no more is read ahead than is read
        assert len(source.read(16 * MIB)) == 16 * MIB
    asked.clear()
    with open_model(view.folder, framework="np", verify="off") as model:
        dict(model.items())
        ways = model.report()["ways"]
    assert isinstance(ways, dict)
    assert ways["O_DIRECT"] >= 7 * MIB
    assert ways["mapped"] >= 15 * MIB
    assert len(asked) > 16
