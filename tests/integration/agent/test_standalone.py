"""`prestage node --standalone`: a real agent, a real origin, a file; killed and edited."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents import Agent, wait_for

from servers.hostile import Hostile


@contextmanager
def standalone(agent: Agent, file: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "prestage.cacher.cli", "node", "--standalone", f"--demand={file}", f"--root={agent.root}"]
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env={**os.environ, "NO_COLOR": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0, log.read_text()[-2000:]


def held(agent: Agent) -> set[str]:
    found = agent.ask("GET", "/v1/artifacts").good
    return {str(one["ref"]) for one in found["items"]} if isinstance(found, dict) else {str(one["ref"]) for one in found}


def test_what_a_file_says_is_there_before_its_time_through_a_kill_and_an_edit(
    agent: Agent, origin: Hostile, tmp_path: Path
) -> None:
    file, log = tmp_path / "demand.yaml", tmp_path / "standalone.log"
    ready_by = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    once = f"[{{name: launch, readyBy: '{ready_by.isoformat()}', duration: 1h}}]"
    file.write_text(
        f"models:\n- {{ref: '{origin.url('/small-0')}', windows: [{{name: base}}]}}\n"
        f"- {{ref: '{origin.url('/small-1')}', windows: {once}}}\n"
    )
    with standalone(agent, file, log) as process:
        wait_for(lambda: {origin.url("/small-0"), origin.url("/small-1")} <= held(agent), timeout_s=50)
        assert datetime.datetime.now(datetime.UTC) < ready_by
        process.kill()
        process.wait(10)
    stages = len(agent.events())
    with standalone(agent, file, log):
        wait_for(lambda: log.read_text().count("window_ready") >= 2, timeout_s=30)
        assert [one for one in agent.events()[stages:] if one["event"] == "staged"] == []
        file.write_text("models: [")
        wait_for(lambda: "demand_not_read" in log.read_text(), timeout_s=20)
        file.write_text(f"models: [{{ref: '{origin.url('/small-2')}', windows: [{{name: base}}]}}]")
        wait_for(lambda: origin.url("/small-2") in held(agent), timeout_s=30)
