"""`prestage plan --dry-run`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import click

from prestage.api.texts import duration_s
from prestage.cacher.errors import Misconfigured
from prestage.control.rehearsal.file import read_rehearsal
from prestage.control.rehearsal.rehearsal import Played, Rehearsal
from prestage.control.rehearsal.shown import as_json, shown
from prestage.planner.rules import Rules

_PATIENCE_S: Final = 60.0
"""A fleet of hundreds takes a plan of a tenth of a second for everything that happens."""


@click.command()
@click.option("--dry-run", is_flag=True, required=True, help="Nothing is staged: say so.")
@click.option(
    "-f", "--file", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A fleet and its demand."
)
@click.option("--from-cluster", is_flag=True, help="What the planner of a cluster sees, read with your own rights.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: as kubectl.")
@click.option("--context", help="Of the kubeconfig; default: its current one.")
@click.option("--ahead", default="48h", show_default=True, help="How far it is played.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, too: a bar a transfer, a row a node.")
def plan(
    dry_run: bool,
    file: Path | None,
    from_cluster: bool,
    kubeconfig: Path | None,
    context: str | None,
    ahead: str,
    as_data: bool,
    png: Path | None,
) -> None:
    """What the planner would do with the demand of a file or a cluster: the timeline, what will be late, and what would fix it.

    Exits with 1 where something will be late or is impossible.
    """
    if (file is None) is not from_cluster:
        raise click.UsageError("say either -f FILE or --from-cluster")
    if file is not None:
        read, source = _read(file), file.name
    else:
        read, source = _asked(kubeconfig, context), f"cluster {context}" if context else "the cluster"
    ends_s = time.monotonic() + _PATIENCE_S
    played = read.play(_seconds(ahead), goes_on=lambda: time.monotonic() < ends_s)
    if png is not None:
        _draw(played, png, source)
    click.echo(json.dumps(as_json(played)) if as_data else "\n".join(shown(played)))
    if not played.is_good:
        raise SystemExit(1)


def _read(file: Path) -> Rehearsal:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"cannot read {file}: {exc}", hint="name a YAML file") from exc
    return read_rehearsal(text, str(file), time.time())


def _asked(kubeconfig: Path | None, context: str | None) -> Rehearsal:
    import asyncio

    from prestage.control.rehearsal.cluster import gathered, rehearsal_of
    from prestage.kube.client import KubeApi
    from prestage.kube.settings import KubeSettings

    async def asked() -> Rehearsal:
        settings = KubeSettings(kubeconfig=kubeconfig, context=context, user_agent="prestage-plan")
        async with await KubeApi.connect(settings) as api:
            return rehearsal_of(await gathered(api), time.time(), Rules(peers=False))

    return asyncio.run(asked())


def _draw(played: Played, png: Path, source: str) -> None:
    from prestage.control.rehearsal.bars import chart_of
    from prestage.control.rehearsal.picture import draw

    draw(chart_of(played), png, name=played.rehearsal.name, source=source)


def _seconds(ahead: str) -> float:
    try:
        seconds = duration_s(ahead)
    except ValueError as exc:
        raise click.UsageError(f"--ahead: {exc}") from exc
    if not 0 < seconds <= 31 * 86_400:
        raise click.UsageError("--ahead: write more than nothing, and at most 744h")
    return seconds
