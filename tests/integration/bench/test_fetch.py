"""`prestage bench fetch`: ours against the rivals that are installed, and what happens to one that lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prestage.bench import fetch, machine
from prestage.bench.checkpoint import Checkpoint
from prestage.bench.child import ChildFailed
from prestage.bench.origin.process import Origin
from prestage.bench.reference import Reference, read_reference
from prestage.bench.rivals.known import OURS, RIVALS, TOOLS
from prestage.bench.rivals.ports import Invocation, Target, Unfit
from prestage.cacher.errors import Full, NotFound


def _target(origin: Origin, model: Checkpoint) -> Target:
    return Target(f"{origin.endpoint}/files/prestage/tiny/{model.shards[0].name}", 4)


@pytest.fixture(autouse=True)
def _do_not_wait_for_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_QUIET_WAIT_S", 0.0)


def _installed(target: Target) -> tuple[str, ...]:
    found = []
    for name, plan in RIVALS.items():
        try:
            plan(target, Path("/nowhere"))
        except Unfit:
            continue
        found.append(name)
    return tuple(found)


def test_everyone_installed_brings_the_right_bytes(origin: Origin, model: Checkpoint, tmp_path: Path) -> None:
    target = _target(origin, model)
    reference = read_reference(target)
    job = fetch.FetchJob(target, tmp_path / "out", (OURS, *RIVALS), rounds=1)
    job.scratch.mkdir()
    result = fetch.measure(job, reference, lambda _: None)
    assert reference.size_bytes == model.shards[0].stat().st_size
    assert result.failed == {}
    assert set(result.tools) == {OURS, *_installed(target)}
    assert set(result.tools) | set(result.skipped) == {OURS, *RIVALS}
    assert all(sample.cpu_s > 0 and sample.rss_bytes > 0 for sample in result.samples)
    assert list(job.scratch.iterdir()) == []


def test_the_servers_own_work_is_not_foreign(origin: Origin, model: Checkpoint) -> None:
    assert origin.pid in fetch._local_servers(_target(origin, model))
    assert origin.pid in machine.listeners(int(origin.endpoint.rpartition(":")[2]))


def _lying(target: Target, folder: Path) -> Invocation:
    code = "import sys; open(sys.argv[1], 'wb').write(b'wrong')"
    command = (sys.executable, "-c", code, str(folder / "object"))
    return Invocation(command, (sys.executable, "--version"), folder / "object")


def _breaking(target: Target, folder: Path) -> Invocation:
    return Invocation((sys.executable, "-c", "raise SystemExit(9)"), (sys.executable, "--version"), folder / "object")


def test_a_rival_that_brings_wrong_bytes_or_breaks_has_no_figure(
    origin: Origin, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TOOLS", {**TOOLS, "lying": _lying, "breaking": _breaking})
    target = _target(origin, model)
    job = fetch.FetchJob(target, tmp_path, ("huggingface_hub", "lying", "breaking"), rounds=1)
    result = fetch.measure(job, read_reference(target), lambda _: None)
    assert result.tools == ("huggingface_hub",)
    assert "other bytes" in result.failed["lying"][0]
    assert "exit code 9" in result.failed["breaking"][0]


def test_our_own_failure_fails_the_bench(tmp_path: Path) -> None:
    job = fetch.FetchJob(Target("http://127.0.0.1:1/b/k", 2), tmp_path, (OURS,), rounds=1)
    with pytest.raises(ChildFailed, match="prestage"):
        fetch.measure(job, Reference(10, "00" * 32), lambda _: None)


def test_an_object_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    job = fetch.FetchJob(Target("http://127.0.0.1:1/b/k", 2), tmp_path, (OURS,), rounds=1)
    with pytest.raises(Full, match="--dir"):
        fetch.measure(job, Reference(1 << 60, "00" * 32), lambda _: None)


def test_a_url_that_is_not_there_is_not_found(origin: Origin) -> None:
    with pytest.raises(NotFound, match="404"):
        read_reference(Target(f"{origin.endpoint}/files/prestage/tiny/absent", 1))


def test_the_command_prints_json_and_draws(origin: Origin, model: Checkpoint, tmp_path: Path) -> None:
    url = _target(origin, model).ref
    command = [sys.executable, "-m", "prestage.cacher.cli", "bench", "fetch", url, "--rivals", "huggingface_hub"]
    options = ["--rounds", "1", "--connections", "4", "--json", "--png", "plot.png", "--html", "report.html"]
    done = subprocess.run(
        command + options, env=dict(os.environ), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert set(content["tools"]) == {OURS, "huggingface_hub"}
    assert content["connections"] == 4
    assert content["tools"][OURS]["gb_per_s"]["median"] > 0
    assert content["ours_over"]["huggingface_hub"]["speed"]["noisy"] is True
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} >= {"plot.png", "report.html"}
    assert not list(tmp_path.glob(".prestage-bench-*"))
