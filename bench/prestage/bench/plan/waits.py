"""Each measured start of each run with its wait, as CSV: for who asks where the hours of a table come from."""

from __future__ import annotations

import csv
from pathlib import Path

from prestage.bench.plan.runs import Outcome, Setting
from prestage.bench.plan.simulate import Served
from prestage.bench.plan.traces import Start
from prestage.cacher.errors import Misconfigured

COLUMNS = (
    *("policy", "scheduler", "announced", "ssd", "seed", "start", "time_s", "app", "gpus", "size_bytes", "node"),
    *("has_bytes_s", "wait_s"),
)


class WaitsFile:
    """Written anew; after each run it is whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._write("w", [COLUMNS])

    def add(self, setting: Setting, outcome: Outcome) -> None:
        """In the order in which pods got their bytes. A pod that lost its node is one more line."""
        about = (setting.policy, str(setting.scheduler), setting.share, setting.ssd, setting.seed)
        self._write("a", [(*about, *_columns(start, one)) for start, one in outcome.served])

    def _write(self, mode: str, rows: list[tuple[object, ...]]) -> None:
        try:
            with self._file.open(mode, newline="") as stream:
                csv.writer(stream).writerows(rows)
        except OSError as exc:
            raise Misconfigured(f"cannot write the waits to {self._file}: {exc}", hint="name a file that you may write") from exc


def _columns(start: Start, served: Served) -> tuple[object, ...]:
    what = (f"{start.time_s:.3f}", start.app, start.gpus, start.size_bytes)
    return (served.number, *what, served.node, f"{served.at_s:.3f}", f"{served.wait_s:.3f}")
