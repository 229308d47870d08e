"""What the agent decided lies on disk: bounded, whole after `kill -9` and torn writes, and whatever else may lie there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.agent.decisions import SEGMENT_BYTES, TEXT_MAX, DecisionLog, Entry, Keeper, entries_in, line_of
from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.history import PASSING, REMEMBERED, History

A = "sha256:" + "a" * 64


def entry(number: int, **more: str | int | float | None) -> Entry:
    return {"at": float(number), "event": "staged", "artifact": A, "ref": None, "number": number, **more}


def numbers(entries: list[Entry]) -> list[object]:
    return [one["number"] for one in entries]


def test_what_was_decided_is_there_after_a_restart_in_its_order(tmp_path: Path) -> None:
    first = DecisionLog(tmp_path)
    assert first.load() == []
    first.append([entry(1), entry(2)])
    first.append([entry(3)])
    second = DecisionLog(tmp_path)
    assert second.load() == [entry(1), entry(2), entry(3)]
    second.append([entry(4)])
    assert numbers(DecisionLog(tmp_path).load()) == [1, 2, 3, 4]


def test_it_never_takes_more_than_two_segments_and_keeps_the_newest(tmp_path: Path) -> None:
    log, each = DecisionLog(tmp_path), len(line_of(entry(10_000)))
    for number in range(10_000, 10_000 + 6 * SEGMENT_BYTES // each, 100):
        log.append([entry(one) for one in range(number, number + 100)])
        assert sum(path.stat().st_size for path in (tmp_path / "decisions").iterdir()) <= 2 * SEGMENT_BYTES + 100 * each
    found = numbers(log.load())
    assert found == list(range(number + 100 - len(found), number + 100))
    assert len(found) * each >= SEGMENT_BYTES


@pytest.mark.parametrize("left", range(0, 80, 7))
def test_a_torn_last_line_is_passed_over_and_what_comes_after_it_is_not(tmp_path: Path, left: int) -> None:
    DecisionLog(tmp_path).append([entry(1), entry(2)])
    path = tmp_path / "decisions" / "now"
    os.truncate(path, len(line_of(entry(1))) + left)
    log = DecisionLog(tmp_path)
    assert numbers(log.load()) == [1]
    log.append([entry(3)])
    assert numbers(log.load()) == [1, 3]


def test_an_agent_killed_while_it_writes_leaves_whole_lines(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from prestage.cacher.agent.decisions import DecisionLog
log = DecisionLog(Path({str(tmp_path)!r}))
print("on", flush=True)
for number in range(10**9):
    log.append([{{"at": 1.0, "event": "staged", "number": number, "text": "x" * (number % 300)}}])
"""
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        while not (tmp_path / "decisions" / "before").exists():
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = [int(str(one)) for one in numbers(DecisionLog(tmp_path).load())]
        assert found[-100:] == list(range(found[-1] - 99, found[-1] + 1))
        (tmp_path / "decisions" / "before").unlink()
        (tmp_path / "decisions" / "now").unlink(missing_ok=True)


def test_long_words_are_cut_and_a_disk_that_takes_nothing_ends_nothing(tmp_path: Path) -> None:
    [cut] = entries_in(line_of(entry(1, message="x" * 10_000)))
    assert cut["message"] == "x" * TEXT_MAX
    (tmp_path / "decisions").write_text("a file where the folder should be")
    keeper = Keeper(DecisionLog(tmp_path))
    for number in range(10):
        keeper(entry(number))
    keeper.close()
    keeper(entry(11))
    assert DecisionLog(tmp_path).load() == []


@given(st.binary(max_size=400))
def test_whatever_lies_there_is_read_without_a_crash_and_gives_only_entries(data: bytes) -> None:
    for found in entries_in(data):
        assert isinstance(found["event"], str)


VALUE = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=TEXT_MAX)


@given(st.lists(st.dictionaries(st.text(max_size=20), VALUE, max_size=5), max_size=5), st.binary(max_size=60), st.data())
def test_what_was_written_is_read_again_beside_any_rubbish(rows: list[Entry], rubbish: bytes, data: st.DataObject) -> None:
    entries = [{**row, "at": 1.5, "event": "evicted"} for row in rows]
    lines = [line_of(one) for one in entries]
    lines.insert(data.draw(st.integers(0, len(lines))), rubbish.replace(b"\n", b" ") + b"\n")
    assert list(entries_in(b"".join(lines))) == entries


def test_decisions_outlive_the_agent_and_pods_that_come_and_go_do_not_push_them_out(tmp_path: Path) -> None:
    async def scenario() -> History:
        log = DecisionLog(tmp_path)
        keeper = Keeper(log)
        history = History(Feed(asyncio.get_running_loop()), log.load(), keeper)
        history.add("staged", artifact=A, ref="file:///a")
        history.add("evicted", artifact=A, why="by hand")
        for number in range(3 * REMEMBERED):
            history.add("mount_held", artifact="sha256:b", hold=str(number))
        keeper.close()
        return history

    history = asyncio.run(scenario())
    assert [one["event"] for one in history.about(A, None)] == ["staged", "evicted"]
    assert len(history.about("sha256:b", None)) == PASSING

    async def later() -> History:
        return History(Feed(asyncio.get_running_loop()), DecisionLog(tmp_path).load())

    again = asyncio.run(later())
    assert [one["event"] for one in again.about(A, None)] == ["staged", "evicted"]
    assert again.about("sha256:b", None) == []
    assert (again.artifact_of("file:///a"), again.artifact_of("file:///b")) == (A, None)
