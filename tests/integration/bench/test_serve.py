"""`prestage bench serve` on real servers, small; and that its client tells a wrong answer from a right one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from prestage.bench.cli import bench
from servers.hostile import Hostile


@pytest.mark.needs("nginx")
def test_three_servers_are_compared(tmp_path: Path) -> None:
    arguments = ["serve", "--dir", str(tmp_path), "--size", "20M", "--connections", "3", "--rounds", "2", "--json"]
    outcome = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    document = json.loads(outcome.stdout)
    assert set(document["servers"]) == {"prestage", "nginx", "aiohttp"}
    assert document["skipped"] == {}
    assert len(document["samples"]) == 6
    assert all(sample["bytes"] == 3 * 20_000_000 for sample in document["samples"])
    assert set(document["ours_over"]["nginx"]) == {"speed", "cpu"}
    assert list(tmp_path.iterdir()) == []


def drain(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prestage.bench.drain", url, "--connections", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PRESTAGE_BENCH_TOKEN": "t"})


def test_the_client_counts_what_came(hostile: Hostile) -> None:
    hostile.put("/f", b"x" * 100_000)
    done = drain(hostile.url("/f"))
    assert json.loads(done.stdout)["bytes"] == 200_000


def test_the_client_fails_where_an_answer_is_wrong(hostile: Hostile) -> None:
    done = drain(hostile.url("/none"))
    assert done.returncode != 0
    assert "404" in done.stderr
