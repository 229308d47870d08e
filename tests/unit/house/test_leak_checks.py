"""The checks that fail a leaking test do see what leaks."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import leaks
import pytest
from hypothesis import given
from hypothesis import strategies as st

HERE = Path("/nowhere")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_GRACE_S", 0.1)


def test_an_open_descriptor_shows() -> None:
    before = leaks.held(HERE)
    reading, writing = os.pipe()
    try:
        assert [line.split(" ")[0] for line in leaks.leaked_since(before, HERE)] == ["descriptor", "descriptor"]
    finally:
        os.close(reading)
        os.close(writing)
    assert leaks.leaked_since(before, HERE) == []


def test_a_running_thread_shows() -> None:
    before, stop = leaks.held(HERE), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-alone")
    thread.start()
    try:
        assert leaks.leaked_since(before, HERE) == ["thread left-alone"]
    finally:
        stop.set()
        thread.join()
    assert leaks.leaked_since(before, HERE) == []


def test_a_child_process_shows() -> None:
    before = leaks.held(HERE)
    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            assert leaks.leaked_since(before, HERE) == [f"process {child.pid}: sleep 30"]
        finally:
            child.kill()
    assert leaks.leaked_since(before, HERE) == []


@given(st.integers())
def test_properties_run_under_the_checks_too(number: int) -> None:
    assert number == number + 0
