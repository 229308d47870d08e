"""The machine description, and who listens where."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

from prestage.bench import machine


def test_the_description_has_everything_a_reader_needs(tmp_path: Path) -> None:
    described = machine.describe(tmp_path)
    assert described.cores > 0
    assert described.memory_bytes > 2**28
    assert described.free_bytes > 0
    assert " on " in described.filesystem
    assert described.cpu
    assert described.kernel in described.line()
    assert json.loads(json.dumps(described.to_json()))["python"] == described.python


def test_the_process_that_listens_is_found_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.listeners(port) == {os.getpid()}
    assert machine.listeners(port) == frozenset()


def test_cpu_of_a_process_that_has_gone_is_zero() -> None:
    assert machine.cpu_seconds(2**22 + 1) == 0.0
    assert machine.cpu_seconds(os.getpid()) > 0


def test_cpu_of_another_process_is_counted_below_a_tick() -> None:
    with subprocess.Popen(["sleep", "30"]) as idle:
        try:
            ends = time.monotonic() + 10
            while not machine.cpu_seconds(idle.pid) and time.monotonic() < ends:
                time.sleep(0.001)  # what has not yet left its core once may be said to have used nothing
            assert 0.0 < machine.cpu_seconds(idle.pid) < 5.0
        finally:
            idle.kill()


def test_foreign_load_is_what_is_left_and_never_negative() -> None:
    watch = machine.LoadWatch()
    assert watch.foreign_cores(own_cpu_s=1e9) == 0.0
    assert watch.server_cpu_s() == 0.0
