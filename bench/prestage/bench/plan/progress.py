"""Where long runs are, on stderr: on a terminal one line that changes each second, elsewhere a line each minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from prestage.bench.plan.simulate import Run

_TOLD_S = 10.0
"""Where no terminal is: the end of a run is worth a line if it took so long."""


class Progress:
    """Of `total` runs."""

    def __init__(self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._stream = stream if stream is not None else sys.stderr
        self._is_live = self._stream.isatty()
        self._each_s = 1.0 if self._is_live else 60.0
        self._ended, self._name = 0, ""
        self._run: Run | None = None
        self._began_s = clock()
        self._next_s = self._began_s + self._each_s

    def begin(self, name: str) -> None:
        """The next run."""
        self._name, self._run, self._began_s = name, None, self._clock()
        self._next_s = self._began_s + self._each_s

    def at(self, run: Run) -> None:
        """It is there now. Cheap: called at each event."""
        self._run = run
        now_s = self._clock()
        if now_s >= self._next_s:
            self._next_s = now_s + self._each_s
            self._say(f"{self._ended + 1}/{self._total} {self._name}: {_so_far(run)}", is_over=False)

    def end(self, name: str) -> None:
        """One more is through."""
        self._ended += 1
        self._run = None
        took_s = self._clock() - self._began_s
        if self._is_live or took_s >= _TOLD_S:
            self._say(f"{self._ended}/{self._total} {name}: done after {took_s:.0f} s", is_over=True)

    def interrupted(self, ended: int) -> None:
        """What there is, and what there is not."""
        self._say(f"prestage: interrupted; {ended} of {self._total} runs ended, and are shown", is_over=True)
        if self._run is not None:
            self._say(f"  not shown: {self._name}: {_so_far(self._run)}", is_over=True)

    def _say(self, line: str, *, is_over: bool) -> None:
        before, after = ("\r\x1b[K", "\n" if is_over else "") if self._is_live else ("", "\n")
        self._stream.write(f"{before}{line}{after}")
        self._stream.flush()


def _so_far(run: Run) -> str:
    tally, hours = run.tally, run.starts[-1].time_s / 3600
    waits = tally.waits_s
    if not waits:
        return f"hour {run.now / 3600:.1f} of {hours:.1f}, not measured yet"
    warm, waited = tally.warm / len(waits), sum(waits) / 3600
    return f"hour {run.now / 3600:.1f} of {hours:.1f}, {len(waits)} starts measured, {warm:.3f} warm, {waited:.1f} hours waited"
