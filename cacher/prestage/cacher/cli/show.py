"""`prestage ls` and `prestage path`: what is here, and where."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from prestage.cacher.cli.session import Duration, json_option, patterns_options, reading, root_option, selection_of
from prestage.cacher.cli.terminal import human_bytes, human_seconds
from prestage.cacher.store.states import Listing

_STYLES = {"staged": "green", "partial": "yellow", "damaged": "red"}


@click.command()
@root_option
@json_option
def ls(root: Path | None, as_json: bool) -> None:
    """What the store holds, last used first."""
    with reading(root) as store:
        rows = sorted(store.list(), key=lambda row: -(row.last_used or 0))
        used, free = store.used_bytes(), store.free_bytes()
    if as_json:
        click.echo(json.dumps([_as_json(row) for row in rows], indent=2))
        return
    if rows:
        _print_table(rows)
    click.echo(
        f"{len(rows)} artifact{'s' if len(rows) != 1 else ''}, {human_bytes(used)} used, {human_bytes(free)} free", err=True
    )


def _as_json(row: Listing) -> Mapping[str, object]:
    return {
        "artifact": row.artifact,
        "ref": row.ref,
        "files": row.files,
        "bytes": row.bytes,
        "state": row.state,
        "holds": list(row.holds),
        "last_used": row.last_used,
        "identity": "weak" if row.is_weak else "pinned",
    }


def _print_table(rows: Sequence[Listing]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("ARTIFACT", "left"), ("REF", "left"), ("FILES", "right"), ("SIZE", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for name in ("STATE", "HOLDS", "USED"):
        table.add_column(name)
    now = time.time()
    for row in rows:
        holds = ", ".join(str(hold.get("kind")) for hold in row.holds) or "-"
        used = f"{human_seconds(max(0.0, now - row.last_used))} ago" if row.last_used else "-"
        state = f"[{_STYLES.get(row.state, 'white')}]{row.state}[/]" + (" (weak)" if row.is_weak else "")
        table.add_row(row.artifact[:19], row.ref or "-", str(row.files), human_bytes(row.bytes), state, holds, used)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


@click.command()
@click.argument("ref")
@root_option
@patterns_options
@click.option("--hold", "hold_s", type=Duration(), help="Keep it from being evicted for so long, e.g. 2h.")
def path(ref: str, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], hold_s: float | None) -> None:
    """Print the directory that holds REF (a ref or an artifact): absolute, read-only, complete."""
    with reading(root) as store:
        artifact = store.lookup(ref, selection_of(include, exclude))
        if hold_s is not None:
            store.hold(artifact, kind="ttl", expires_at=time.time() + hold_s, note="prestage path --hold")
        click.echo(str(store.path(artifact)))
