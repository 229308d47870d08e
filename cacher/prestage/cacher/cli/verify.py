"""`prestage verify`: read every byte again and compare."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from prestage.cacher.cli.session import json_option, owning, patterns_options, root_option, selection_of, wait_option
from prestage.cacher.cli.terminal import human_bytes
from prestage.cacher.errors import Corrupt
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
    with owning(root, wait_s=wait_s) as store:
        artifact = store.lookup(ref, selection_of(include, exclude)) if ref else None
        report = _verify(store, artifact, quiet=as_json)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        for bad in report.bad:
            click.echo(f"damaged: {', '.join(bad.paths)} ({bad.blob}) in {', '.join(bad.artifacts)}: {bad.why}")
    if report.bad:
        raise Corrupt(
            f"{len(report.bad)} of {report.files} files are damaged",
            hint="they were quarantined; `prestage stage` fetches them again",
        )
    if not as_json:
        click.echo(f"{report.files} files, {human_bytes(report.bytes)}: all as they should be")


def _verify(store: Store, artifact: str | None, *, quiet: bool) -> VerifyReport:
    from prestage.cacher.digests import ArtifactId

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("verifying", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return store.verify(ArtifactId(artifact) if artifact else None, on_progress=show)
