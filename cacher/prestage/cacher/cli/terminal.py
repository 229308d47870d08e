"""What a person sees: sizes, rates, a progress bar on a terminal, nothing of it elsewhere. Honours NO_COLOR by rich."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from prestage.cacher.quantities import human_bytes as human_bytes
from prestage.cacher.quantities import human_seconds as human_seconds
from prestage.cacher.staging.events import Event

_PAUSED = "prestage: paused; to go on: prestage resume, or prestage resume STAGE for one (prestage status shows both)"


class JsonLines:
    """Each event as a line of JSON; the last one is `done` or `error`."""

    def show(self, event: Event) -> None:
        """Print it now."""
        click.echo(json.dumps(event))
        sys.stdout.flush()

    def stop(self) -> None:
        """Nothing to take away."""


class Bar:
    """A progress bar on stderr when that is a terminal; else only what is worth a line in a log."""

    def __init__(self, title: str) -> None:
        self._console = Console(stderr=True)
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[state]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Draw it."""
        kind = event["event"]
        if kind == "resolved" and event["missing_bytes"] and self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=_number(event, "missing_bytes"), state="connecting")
        elif kind == "progress":
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task(self._title, total=_number(event, "total"), state="")
            self._bar.update(self._task, total=_number(event, "total"), completed=_number(event, "bytes"), state=_state(event))
        elif kind == "paused":
            self._console.print(_PAUSED, style="yellow", highlight=False, soft_wrap=True)
        elif kind == "verifying" and self._task is not None:
            self._bar.update(self._task, state="verifying")
        elif kind == "trouble":
            self._console.print(f"prestage: {event['message']}", style="yellow", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def _number(event: Event, name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0


def _state(progress: Event) -> str:
    done, total, rate = (_number(progress, name) for name in ("bytes", "total", "bytes_per_s"))
    state = f"{human_bytes(done)} of {human_bytes(total)}, {human_bytes(rate)}/s"
    state += f", {human_seconds((total - done) / rate)} left" if rate > 0 else ""
    state += f", from {progress['source']}" if progress.get("source") else ""
    retries = _number(progress, "retries")
    return state + (f", {retries} retries" if retries else "")


def summary(done: Event) -> str:
    """One line about a finished stage, from its last event."""
    by_source, seconds = done["bytes_by_source"], done["seconds"]
    assert isinstance(by_source, dict)
    assert isinstance(seconds, (int, float))
    fetched = sum(n for source, n in by_source.items() if source not in ("store", "journal"))
    files = _number(done, "files")
    what = f"{files} file{'s' if files != 1 else ''}, {human_bytes(_number(done, 'bytes'))}"
    if not fetched:
        return f"{what}: already here"
    rate = f"{human_bytes(fetched / max(seconds, 1e-3))}/s"
    sources = ", ".join(f"{human_bytes(n)} from {source}" for source, n in sorted(by_source.items()) if n)
    retries = f", {_number(done, 'retries')} retries" if done["retries"] else ""
    return f"{what} in {human_seconds(seconds)} ({rate}; {sources}{retries})"
