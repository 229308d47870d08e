"""`prestage bench serve` and `store`: what known samples come to, and one small run of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from prestage.bench import machine
from prestage.bench.cli import bench
from prestage.bench.serve import ServeJob, ServeResult, ServeSample, serve_table
from prestage.bench.stocked import scatter
from prestage.bench.store import OPERATIONS, StoreJob, StoreResult, store_table
from prestage.cacher.store.store import Store


@pytest.fixture
def served(tmp_path: Path) -> ServeResult:
    """Two rounds of 8 GB: ours 4 GB/s at 0.2, nginx 3.2 at 0.25."""
    samples = tuple(
        ServeSample(number, name, 8 * 10**9, wall_s, cpu_s, 0.5, 50 << 20, 0.1)
        for number in range(2)
        for name, wall_s, cpu_s in (("prestage", 2.0, 1.6), ("nginx", 2.5, 2.0))
    )
    job = ServeJob(tmp_path, 10**9, rounds=2)
    versions = {"prestage": "Python 3", "nginx": "nginx/1"}
    return ServeResult(job, machine.describe(tmp_path), "2026-01-01", samples, versions, {"aiohttp": "it is not installed"})


def shown(part: object) -> str:
    console = Console(width=200, record=True, file=None, quiet=True)
    console.print(part)
    with console.capture() as captured:
        console.quiet = False
        console.print(part)
    return captured.get()


def test_serve_says_speed_and_cpu_over_nginx(served: ServeResult) -> None:
    over = served.ours_over("nginx")
    assert over["speed"][0].median == pytest.approx(1.25)
    assert over["cpu"][0].median == pytest.approx(0.8)
    text = shown(serve_table(served))
    for word in ("4.00", "0.200", "1.25x", "0.80x", "aiohttp did not take part: it is not installed"):
        assert word in text
    assert "too noisy" not in text


def test_serves_json_holds_every_sample_and_the_goals(served: ServeResult) -> None:
    document = json.loads(json.dumps(served.to_json()))
    assert len(document["samples"]) == 4
    assert document["ours_over"]["nginx"]["speed"]["goal"] == 0.95
    assert document["ours_over"]["nginx"]["cpu"]["goal"] == 1.2
    assert document["servers"]["prestage"]["rss_mib"] == 50


def test_a_disturbed_store_run_says_so(tmp_path: Path) -> None:
    values = {name: [1.0, 2.0, 3.0] for name in OPERATIONS}
    quiet = StoreResult(StoreJob(tmp_path), machine.describe(tmp_path), "2026-01-01", values, [0.1, 0.2, 0.1])
    assert "noisy" not in shown(store_table(quiet))
    noisy = StoreResult(StoreJob(tmp_path), machine.describe(tmp_path), "2026-01-01", values, [0.1, 1.2, 0.1])
    assert "noisy: other processes used up to 1.2 cores" in shown(store_table(noisy))
    operations = json.loads(json.dumps(noisy.to_json()))["operations"]
    assert operations["resolve"]["median"] == 2.0


def test_store_measures_every_operation_and_leaves_nothing(tmp_path: Path) -> None:
    arguments = ["store", "--dir", str(tmp_path), "--blobs", "50", "--artifacts", "2", "--size", "1M", "--rounds", "1", "--json"]
    outcome = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    document = json.loads(outcome.stdout)
    assert set(document["operations"]) == set(OPERATIONS)
    assert all(operation["median"] > 0 for operation in document["operations"].values())
    assert list(tmp_path.iterdir()) == []


def test_scattered_blobs_are_what_a_store_holds(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", own=True).close()
    scatter(tmp_path / "store", 20)
    with Store.open(tmp_path / "store", own=True) as store:
        assert store.warnings == []
        report = store.verify()
    assert (report.files, report.bad) == (20, [])
