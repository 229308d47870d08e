"""`prestage bench plan`, around the simulator: parts of traces, seeds, waits, progress, what an interrupted one has."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from prestage.bench.cli import bench
from prestage.bench.plan import traces
from prestage.bench.plan.baselines import POLICIES, Reactive, cluster_of
from prestage.bench.plan.command import plan
from prestage.bench.plan.outcome import Cost, Row
from prestage.bench.plan.progress import Progress
from prestage.bench.plan.runs import Setting, run_one
from prestage.bench.plan.shown import cost_lines
from prestage.bench.plan.simulate import Run, Scheduler
from prestage.bench.plan.traces import Start
from prestage.cacher.errors import Misconfigured


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty hours of three models in turn, one of them often."""
    starts = [Start(number * 600.0, f"m{number % 4 if number % 2 else 0}", 1, 10, 60.0) for number in range(120)]
    file = tmp_path / "t.csv"
    file.write_text(traces.write_trace(starts))
    return file


def invoked(trace: Path, *more: str) -> Result:
    common = ["plan", str(trace), "--announced", "0.5", "--link", "1", "--budget", "20", "--policies", "LRU,prestage"]
    return CliRunner().invoke(bench, [*common, *more])


def setting(trace: Path, policy: str = "LRU", *, seed: int = 0, hours: float | None = None) -> Setting:
    return Setting(trace, None, 1, policy, Scheduler.AWARE, 0.5, 0.0, seed, 1.0, math.inf, 0, 20, hours=hours)


def test_of_a_trace_its_first_hours_are_run_and_a_part_of_no_hour_is_refused(trace: Path) -> None:
    numbers = [one.number for _, one in run_one(setting(trace, hours=5.0)).served]
    assert numbers == list(range(9, 30))  # 30 starts in 5 hours, the first 30 % of their time unmeasured
    with pytest.raises(Misconfigured, match="no starts"):
        run_one(setting(trace, hours=0.0))


def test_seeds_can_be_gone_on_with(trace: Path) -> None:
    both, second = (
        json.loads(invoked(trace, *more, "--json").output) for more in (["--seeds", "2"], ["--seeds", "1", "--first-seed", "1"])
    )
    alone = run_one(setting(trace, seed=0)).measures["wait_hours"], run_one(setting(trace, seed=1)).measures["wait_hours"]
    assert (both["runs"], both["runs_asked"], second["runs"]) == (4, 4, 2)
    assert both["rows"][0]["wait_hours"]["mean"] == pytest.approx(sum(alone) / 2)
    assert second["rows"][0]["wait_hours"]["mean"] == pytest.approx(alone[1])


def test_all_waits_are_written_with_their_starts_and_are_what_the_table_sums(trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "waits.csv"
    made = json.loads(invoked(trace, "--seeds", "2", "--waits", str(file), "--json").output)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    for row in made["rows"]:
        own = [float(one["wait_s"]) for one in rows if one["policy"] == row["policy"]]
        assert sum(own) / 2 / 3600 == pytest.approx(row["wait_hours"]["mean"], rel=1e-4)
        assert sum(wait == 0 for wait in own) / len(own) == pytest.approx(row["warm"]["mean"], rel=1e-4)
    starts = traces.read_trace(trace)
    assert all((starts[int(one["start"])].app, one["node"]) == (one["app"], "n0000") for one in rows)
    assert set(Counter((one["policy"], one["seed"], one["start"]) for one in rows).values()) == {1}


def test_waits_that_cannot_be_written_are_told_before_anything_runs(trace: Path, tmp_path: Path) -> None:
    refused = invoked(trace, "--waits", str(tmp_path / "no" / "waits.csv"))
    assert isinstance(refused.exception, Misconfigured)
    assert "name a file" in str(refused.exception.hint)


def test_every_policy_can_be_named_alone_though_some_names_have_a_comma(trace: Path) -> None:
    for name in POLICIES:
        made = json.loads(invoked(trace, "--seeds", "1", "--hours", "2", "--policies", f"prestage, {name}", "--json").output)
        assert [row["policy"] for row in made["rows"]] == ["prestage", name]


def test_what_plans_took_is_told_beside_the_figures(trace: Path) -> None:
    cost = json.loads(invoked(trace, "--seeds", "1", "--json").output)["rows"][1]["cost"]
    assert cost["plans"] > 120  # one node is planned at each event
    assert 0 < cost["plan_cpu_most_s"] <= cost["plan_cpu_s"] <= cost["cpu_s"]
    assert cost["peak_rss_bytes"] > 2**20
    costs = (Cost(3.0, 10, 1.0, 0.5, 2**26), Cost(5.0, 30, 2.0, 0.2, 2**27))
    assert list(
        cost_lines(
            [
                Row("prestage", "aware", 0.5, 0.2, ({}, {}), costs),
                Row("LRU", "aware", 0.5, 0.2, ({},), (Cost(1.0, 0, 0.0, 0.0, 2**20),)),
            ]
        )
    ) == [
        "prestage, told ahead 50%, aware: 4.0 s of CPU a run; 20 plans a run, 75.0 ms of CPU each, most 500; "
        "128 MiB of the process at most"
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_live", [True, False])
def test_where_a_long_run_is_is_told_each_second_on_a_terminal_and_each_minute_elsewhere(is_live: bool) -> None:
    stream, moment = Terminal() if is_live else io.StringIO(), 0.0
    progress = Progress(3, stream, lambda: moment)
    progress.begin("short")
    progress.end("short")
    starts = [Start(number * 3600.0, "a", 1, 10, 60.0) for number in range(3)]
    run = Run(cluster_of(1, budget_bytes=100, link=1.0, gpus=8), starts, [], Reactive())
    progress.begin("long")
    progress.at(run)
    run.go(progress.at)
    moment = 61.0
    progress.at(run)
    progress.at(run)
    progress.interrupted(1)
    so_far = "long: hour 2.0 of 2.0, 3 starts measured, 0.667 warm, 0.0 hours waited"
    left = ["prestage: interrupted; 1 of 3 runs ended, and are shown", f"  not shown: {so_far}"]
    clear = "\r\x1b[K" if is_live else ""
    told = f"{clear}1/3 short: done after 0 s|{clear}2/3 {so_far}" if is_live else f"2/3 {so_far}|"
    assert stream.getvalue().replace("\n", "|") == told + "".join(f"{clear}{line}|" for line in left)


@pytest.mark.parametrize(("number", "code", "jobs"), [(signal.SIGINT, 130, "1"), (signal.SIGTERM, 143, "2")])
def test_who_is_interrupted_shows_what_has_ended(
    number: signal.Signals, code: int, jobs: str, trace: Path, tmp_path: Path
) -> None:
    waits = tmp_path / "waits.csv"
    program = "from prestage.cacher.cli import main; main()"
    asked = ["bench", "plan", str(trace), "--seeds", "100", "--ssd", "0.5", "--jobs", jobs, "--waits", str(waits), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not (waits.exists() and len(waits.read_text().splitlines()) > 1):
            assert process.poll() is None, process.stderr.read() if process.stderr is not None else ""
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    made = json.loads(out)
    assert process.returncode == code, err
    assert made["runs_asked"] == 3 * 11 * 100
    assert 0 < made["runs"] == sum(row["seeds"] for row in made["rows"]) < made["runs_asked"]
    assert f"interrupted; {made['runs']} of {made['runs_asked']} runs ended" in err
    assert "Traceback" not in err


def test_the_help_names_every_policy_and_says_how_long_it_takes() -> None:
    shown = " ".join(CliRunner().invoke(plan, ["--help"]).output.split())
    assert all(name in shown for name in (*POLICIES, "prestage"))
    assert "450" in shown
