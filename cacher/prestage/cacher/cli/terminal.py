"""What a person sees: sizes, rates, a progress bar on a terminal, nothing of it elsewhere. Honours NO_COLOR by rich."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from prestage.cacher.manifest import Manifest
from prestage.cacher.staging import Staged, Watcher
from prestage.cacher.transfer import job


def human_bytes(size_bytes: float) -> str:
    """1234567 -> 1.23 MB: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 999.5 or unit == "TB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return ""


def human_seconds(seconds: float) -> str:
    """0.042 -> 42 ms, 0.42 -> 0.4 s, 75 -> 1 min 15 s."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class JsonWatcher(Watcher):
    """One JSON object a line; the last one is `done` or `error`."""

    def __init__(self) -> None:
        self._missing_bytes = 0

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """See Watcher."""
        self._missing_bytes = missing_bytes
        self._print(
            "resolved",
            artifact=manifest.artifact,
            files=len(manifest.files),
            bytes=manifest.size_bytes,
            missing_bytes=missing_bytes,
            identity="weak" if manifest.is_weak else "pinned",
        )

    def progress(self, progress: job.Progress) -> None:
        """See Watcher."""
        self._print(
            "progress",
            bytes=progress.bytes_done,
            total=progress.bytes_total,
            bytes_per_s=round(progress.bytes_per_s),
            retries=progress.retries,
            source=progress.source,
        )

    def verifying(self) -> None:
        """See Watcher."""
        self._print("verifying")

    def trouble(self, why: str) -> None:
        """See Watcher."""
        self._print("trouble", message=why)

    def done(self, staged: Staged, **more: object) -> None:
        """The last line; `more` fields at its end."""
        self._print(
            "done",
            artifact=staged.artifact,
            path=str(staged.path),
            files=staged.files,
            bytes=staged.bytes,
            seconds=round(staged.seconds, 3),
            bytes_by_source=dict(staged.bytes_by_source),
            retries=staged.retries,
            identity="weak" if staged.is_weak else "pinned",
            **more,
        )

    @staticmethod
    def _print(event: str, **fields: object) -> None:
        click.echo(json.dumps({"event": event, **fields}))
        sys.stdout.flush()


class BarWatcher(Watcher):
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

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """See Watcher."""
        if missing_bytes:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=missing_bytes, state="connecting")

    def progress(self, progress: job.Progress) -> None:
        """See Watcher."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=progress.bytes_total, state="")
        rate = progress.bytes_per_s
        left = (progress.bytes_total - progress.bytes_done) / rate if rate > 0 else 0
        state = f"{human_bytes(progress.bytes_done)} of {human_bytes(progress.bytes_total)}, {human_bytes(rate)}/s"
        state += f", {human_seconds(left)} left" if rate > 0 else ""
        state += f", from {progress.source}" if progress.source else ""
        state += f", {progress.retries} retries" if progress.retries else ""
        self._bar.update(self._task, total=progress.bytes_total, completed=progress.bytes_done, state=state)

    def verifying(self) -> None:
        """See Watcher."""
        if self._task is not None:
            self._bar.update(self._task, state="verifying")

    def trouble(self, why: str) -> None:
        """See Watcher."""
        self._console.print(f"prestage: {why}", style="yellow", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def summary(staged: Staged) -> str:
    """One line about a finished stage."""
    fetched = sum(n for source, n in staged.bytes_by_source.items() if source not in ("store", "journal"))
    what = f"{staged.files} file{'s' if staged.files != 1 else ''}, {human_bytes(staged.bytes)}"
    if not fetched:
        return f"{what}: already here"
    rate = f"{human_bytes(fetched / max(staged.seconds, 1e-3))}/s"
    sources = ", ".join(f"{human_bytes(n)} from {source}" for source, n in sorted(staged.bytes_by_source.items()) if n)
    retries = f", {staged.retries} retries" if staged.retries else ""
    return f"{what} in {human_seconds(staged.seconds)} ({rate}; {sources}{retries})"
