"""Results with known samples: what the tables, plots, reports and schemas are checked on."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from prestage.bench import fetch, machine, start
from prestage.bench.reference import Reference
from prestage.bench.rivals.ports import Target
from prestage.bench.staged import StageDone

SECONDS = {
    start.COLD: (0.5, 8.0, 1.0, 0.5),
    start.DISK: (0.5, 0.0, 1.0, 0.5),
    start.WARM: (0.5, 0.0, 0.25, 0.25),
}
WALL_AND_CPU = {"prestage": (1.0, 0.5), "rclone": (2.0, 2.0), "curl": (4.0, 3.0)}


@pytest.fixture
def start_result(tmp_path: Path) -> start.StartResult:
    """Two rounds: cold 10 s, from disk 2 s, warm 1 s."""
    answer = base64.b64encode(b"the same").decode()
    samples = tuple(
        start.StartSample(number, name, dict(zip(start.PHASES, phases, strict=True)), 1.0, 2**27, 0.1, answer)
        for number in range(2)
        for name, phases in SECONDS.items()
    )
    job = start.StartJob("hf://org/<name>@main", tmp_path, tmp_path, rounds=2, link_bytes_per_s=125e6)
    done = StageDone("sha256:" + "a" * 64, 3, 10**9, 8.0, {"origin": 10**9})
    return start.StartResult(job, done, machine.describe(tmp_path), "2026-01-01T00:00:00+00:00", samples)


@pytest.fixture
def fetch_result(tmp_path: Path) -> fetch.FetchResult:
    """Three rounds of 1 GB: ours 1 GB/s, rclone 0.5, curl 0.25."""
    samples = tuple(
        fetch.FetchSample(number, tool, wall_s, cpu_s, 0.3, 2**26, 0.1)
        for number in range(3)
        for tool, (wall_s, cpu_s) in WALL_AND_CPU.items()
    )
    job = fetch.FetchJob(Target("http://host/b/<key>", 8), tmp_path, tuple(WALL_AND_CPU), rounds=3)
    about = {tool: (f"{tool} 1.0", f"{tool} get") for tool in WALL_AND_CPU}
    return fetch.FetchResult(
        job,
        Reference(10**9, "ab" * 32),
        machine.describe(tmp_path),
        "2026-01-01T00:00:00+00:00",
        samples,
        about,
        {"aria2c": "aria2c is not installed"},
        {"s5cmd": ["it broke"]},
    )
