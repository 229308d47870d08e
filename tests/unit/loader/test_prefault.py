"""Memory is faulted in a little ahead of the readers, never behind them, and only where all of it will be filled."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import View, bytes_tensors, data_start, make_view

from prestage.bench.cold import make_cold
from prestage.loader import host_load, open_model, running
from prestage.loader.memory.region import Region
from prestage.loader.prefault import LEAD_BLOCKS, Prefault

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


class Memory:
    """Which blocks were faulted in, and a gate before each."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.arrived = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()

    def fault_in(self, block: int) -> bool:
        with self.arrived:
            self.blocks.append(block)
            self.arrived.notify_all()
        assert self.gate.wait(10)
        return True

    def wait_for(self, count: int) -> list[int]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.blocks) >= count, 10), self.blocks
            return list(self.blocks)


def resident_bytes(region: Region) -> int:
    """Of the region's memory, in this process' page table."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            low, high = (int(address, 16) for address in first.split("-"))
            inside = low < region.base + region.size_bytes and region.base < high
        elif inside and first == "Rss:":
            found += int(line.split()[1]) * 1024
    return found


def test_it_stays_a_fixed_way_ahead_of_what_was_begun() -> None:
    memory = Memory()
    ahead = Prefault(100, memory.fault_in, first=0)
    assert memory.wait_for(LEAD_BLOCKS) == list(range(LEAD_BLOCKS))
    ahead.begin(0)
    assert memory.wait_for(LEAD_BLOCKS + 1)[-1] == LEAD_BLOCKS
    ahead.end()
    assert len(memory.blocks) == LEAD_BLOCKS + 1


def test_the_first_blocks_are_left_to_their_readers() -> None:
    memory = Memory()
    ahead = Prefault(20, memory.fault_in, first=10)
    for block in range(10):
        ahead.begin(block)
    assert memory.wait_for(10) == list(range(10, 20))
    ahead.end()


def test_a_block_that_was_begun_is_its_readers_alone() -> None:
    memory = Memory()
    memory.gate.clear()
    ahead = Prefault(3, memory.fault_in, first=0)
    memory.wait_for(1)
    ahead.begin(1)
    reader = threading.Thread(target=ahead.begin, args=(0,))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive(), "block 0 is being faulted in: its reader waits"
    memory.gate.set()
    reader.join(10)
    assert not reader.is_alive()
    assert memory.wait_for(2) == [0, 2]
    ahead.end()


def test_no_reader_waits_for_one_that_gave_up() -> None:
    calls = []

    def fault_in(block: int) -> bool:
        calls.append(block)
        return False

    ahead = Prefault(5, fault_in, first=0)
    for block in range(5):
        ahead.begin(block)
    ahead.end()
    assert len(calls) <= 1


@given(order=st.permutations(list(range(40))), first=st.integers(0, 16))
def test_whatever_the_order_of_readers_each_block_is_faulted_in_once_at_most_and_not_after_it_was_begun(
    order: list[int], first: int
) -> None:
    begun: set[int] = set()
    wrong: list[int] = []
    seen: list[int] = []

    def fault_in(block: int) -> bool:
        seen.append(block)
        if block in begun:
            wrong.append(block)
        return True

    ahead = Prefault(40, fault_in, first=first)
    for block in order:
        ahead.begin(block)
        begun.add(block)
    ahead.end()
    assert not wrong
    assert len(seen) == len(set(seen))


def test_faulting_in_keeps_what_is_there() -> None:
    region = Region(8 * MIB)
    region.view[:4] = b"here"
    assert resident_bytes(region) < 8 * MIB
    assert region.prefault(0, 8 * MIB)
    assert resident_bytes(region) >= 8 * MIB
    assert bytes(region.view[:4]) == b"here"


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> View:
    """24 blocks of 1 MiB, of two readers."""
    monkeypatch.setattr(running, "THREADS", 2)
    monkeypatch.setattr(running, "BLOCK_BYTES", MIB)
    view = make_view(tmp_path, {"model.safetensors": bytes_tensors({f"t{at}": MIB for at in range(24)})}, chunk_bytes=MIB)
    make_cold([Path(view.file())])
    return view


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Prefault]:
    """Those that loads began, each from its second block on."""
    found: list[Prefault] = []

    def make(count: int, fault_in: object) -> Prefault:
        found.append(Prefault(count, fault_in, first=2))  # type: ignore[arg-type] # passed through
        return found[-1]

    monkeypatch.setattr(host_load, "Prefault", make)
    return found


@pytest.mark.parametrize("verify", ["off", "require"])
@pytest.mark.parametrize("destination", ["auto", "private"])
def test_a_cold_load_has_the_same_bytes(cold: View, made: list[Prefault], verify: str, destination: str) -> None:
    with open_model(cold.folder, framework="np", verify=verify, destination=destination) as model:
        loaded = dict(model.items())
    assert len(made) == 1
    content = Path(cold.file()).read_bytes()
    assert b"".join(tensor.tobytes() for tensor in loaded.values()) == content[data_start(content) :]


@pytest.mark.parametrize(
    "options",
    [{"destination": "mapped"}, {"readers": 2}, {"host_bytes": 8 * MIB}],
    ids=["what is mapped", "what several readers share", "what does not fit the budget"],
)
def test_nothing_is_faulted_in_for(cold: View, made: list[Prefault], options: dict[str, Any]) -> None:
    with open_model(cold.folder, framework="np", verify="off", **options) as model:
        assert len(dict(model.items())) == 24
    assert not made


def test_a_load_goes_on_where_the_system_gives_no_further_thread(cold: View, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(host_load, "Prefault", refuse)
    with open_model(cold.folder, framework="np", verify="off") as model:
        assert len(dict(model.items())) == 24
