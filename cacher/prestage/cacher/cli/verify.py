"""`prestage verify`: read every byte again and compare."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from prestage.cacher.cli.asking import agent_of, followed
from prestage.cacher.cli.session import (
    checked_root,
    json_option,
    owning,
    patterns_options,
    root_option,
    selection_of,
    wait_option,
)
from prestage.cacher.cli.terminal import human_bytes
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt
from prestage.cacher.staging.events import Event
from prestage.cacher.store.store import Store
from prestage.cacher.store.verify import VerifyReport


@click.command()
@click.argument("ref", required=False)
@root_option
@patterns_options
@wait_option
@json_option
def verify(
    ref: str | None, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], wait_s: float, as_json: bool
) -> None:
    """Check REF (a ref or an artifact), or the whole store, against its digests.

    Damaged bytes go to quarantine; staging the ref again fetches just those files. Exit code 5 if anything is bad.
    """
    report = _by_agent(checked_root(root), ref, include, exclude, quiet=as_json)
    if report is None:
        with owning(root, wait_s=wait_s) as store:
            artifact = store.lookup(ref, selection_of(include, exclude)) if ref else None
            report = _verify(store, artifact, quiet=as_json).to_json()
    bad = report["bad"]
    assert isinstance(bad, list)
    if as_json:
        click.echo(json.dumps({name: value for name, value in report.items() if name != "event"}))
    else:
        for found in bad:
            paths, users = ", ".join(found["paths"]), ", ".join(found["artifacts"])
            click.echo(f"damaged: {paths} ({found['blob']}) in {users}: {found['why']}")
    if bad:
        raise Corrupt(
            f"{len(bad)} of {report['files']} files are damaged",
            hint="they were quarantined; `prestage stage` fetches them again",
        )
    if not as_json:
        click.echo(f"{report['files']} files, {human_bytes(int(str(report['bytes'])))}: all as they should be")


def _by_agent(root: Path, ref: str | None, include: tuple[str, ...], exclude: tuple[str, ...], *, quiet: bool) -> Event | None:
    if agent_of(root) is None:
        return None
    last: Event = {}
    with _bar(quiet=quiet) as bar:
        task = bar.add_task("verifying", total=None)
        for event in followed(root, "/v1/verify", {"ref": ref or "", "include": list(include), "exclude": list(exclude)}):
            if event["event"] == "progress":
                bar.update(task, completed=float(str(event["bytes"])), total=float(str(event["total"])))
            last = event
    return last


def _bar(*, quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=quiet or not console.is_terminal)


def _verify(store: Store, artifact: ArtifactId | None, *, quiet: bool) -> VerifyReport:
    with _bar(quiet=quiet) as bar:
        task = bar.add_task("verifying", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return store.verify(artifact, on_progress=show)
