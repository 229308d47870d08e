"""How much a load may take: the system's memory, every cgroup above, and the count against it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.loader.memory import budget
from prestage.loader.memory.budget import Budget, default_host_bytes
from prestage.loader.ways import Destination, Way, device_way, host_way

GIB = 1 << 30


def cgroup(folder: Path, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {cache}\ninactive_file 0\n")


def test_page_cache_counts_as_free_in_a_limited_cgroup(tmp_path: Path) -> None:
    cgroup(tmp_path, str(8 * GIB), 6 * GIB, 4 * GIB)
    assert budget._room(str(tmp_path)) == 6 * GIB
    cgroup(tmp_path, "max", 6 * GIB, 0)
    assert budget._room(str(tmp_path)) == budget._UNLIMITED
    cgroup(tmp_path, str(GIB), 2 * GIB, 0)
    assert budget._room(str(tmp_path)) == 0
    (tmp_path / "memory.stat").write_text("damaged")
    assert budget._room(str(tmp_path)) == budget._UNLIMITED
    assert budget._room(str(tmp_path / "absent")) == budget._UNLIMITED


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {f"{tmp_path}/pods/one": 5 * GIB, f"{tmp_path}/pods": 3 * GIB}
    monkeypatch.setattr(budget, "_room", lambda folder: rooms.get(folder, budget._UNLIMITED))
    text = tmp_path / "cgroup"
    text.write_text("0::/pods/one\n")
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *rest: real(text if path == "/proc/self/cgroup" else path, *rest))
    assert budget._cgroup_bytes(str(tmp_path)) == 3 * GIB


def test_a_tenth_of_what_is_available_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_cgroup_bytes", lambda: 10 * GIB)
    monkeypatch.setattr(budget, "_system_bytes", lambda: 20 * GIB)
    assert default_host_bytes() == 9 * GIB


@given(st.lists(st.integers(0, 100)))
def test_a_budget_never_goes_beyond_its_limit(sizes: list[int]) -> None:
    held = Budget(200)
    taken = [size for size in sizes if held.take(size)]
    assert held.used_bytes == sum(taken) <= 200
    for size in taken:
        held.give(size)
    assert (held.used_bytes, held.peak_bytes) == (0, sum(taken))


def test_many_threads_share_one_budget() -> None:
    held = Budget(1000)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(sum(held.take(1) for _ in range(500)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == held.used_bytes == 1000


@given(st.booleans(), st.sampled_from(Destination), st.integers(1, 8), st.booleans(), st.booleans())
def test_ways_keep_their_promises(resident: bool, destination: Destination, readers: int, room: bool, registers: bool) -> None:
    way = host_way(destination, resident=resident, readers=readers, has_room=room)
    if readers > 1:
        assert way is not Way.DIRECT  # each byte from the disk once
        assert device_way(resident=resident, readers=readers, registers=registers) is not Way.DIRECT
    if destination is Destination.MAPPED:
        assert way in (Way.MAPPED, Way.POPULATED)
    if destination is Destination.PRIVATE:
        assert way in (Way.DIRECT, Way.COPIED)
    if resident:
        assert way is not Way.DIRECT  # never from the disk what is in memory
        assert (device_way(resident=resident, readers=readers, registers=registers) is Way.REGISTERED) == registers
    if not room and destination is Destination.AUTO:
        assert way in (Way.MAPPED, Way.POPULATED)
