"""`prestage adopt|export|import`: what comes in and goes out without an origin."""

from __future__ import annotations

import os
from pathlib import Path

import click

from prestage.cacher.adopting import Adopted, Adopter
from prestage.cacher.cli.session import Size, json_option, owning, root_option, wait_option
from prestage.cacher.cli.terminal import Bar, JsonLines, summary
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins.huggingface import endpoint_of
from prestage.cacher.refs import HfRef, parse_ref
from prestage.cacher.staging import Stager, Watcher
from prestage.cacher.staging.events import Events, done
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits

budget_option = click.option(
    "--budget", type=Size(), help="Most bytes the store may hold; default: what the disk has, less a margin."
)


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--ref", help="Which revision of a Hugging Face cache; default: main, else the only one.")
@click.option("--take", is_flag=True, help="Move the files in: each must have one name and no writers.")
@root_option
@wait_option
@budget_option
@json_option
def adopt(path: Path, ref: str | None, take: bool, root: Path | None, wait_s: float, budget: int | None, as_json: bool) -> None:
    """Make an artifact of what lies at PATH already, without fetching it.

    \b
    PATH is a Hugging Face cache's models--org--name (known as hf://org/name@revision from then on),
    or any other directory or file (known as file://PATH).

    Blocks are shared where the file system can (xfs, btrfs), else copied; every byte is verified. The source stays as it is.
    """
    parsed = parse_ref(ref) if ref is not None else None
    if parsed is not None and not isinstance(parsed, HfRef):
        raise Misconfigured(f"--ref {ref} is no hf:// ref", hint="--ref names a revision of a Hugging Face cache")
    with owning(root, wait_s=wait_s, budget_bytes=budget) as store:
        display = JsonLines() if as_json else Bar(str(path))
        try:
            adopted = _adopt(store, path, parsed, take, Events(display.show))
        finally:
            display.stop()
    last = done(adopted.staged)
    if as_json:
        display.show({**last, "ref": adopted.ref, "notes": list(adopted.notes), "taken": adopted.taken})
        return
    click.echo(f"{adopted.staged.artifact}  {summary(last)}")
    click.echo(f"prestage: known as {adopted.ref}", err=True)
    for note in adopted.notes:
        click.echo(f"prestage: {note}", err=True)
    click.echo(str(adopted.staged.path))


def _adopt(store: Store, path: Path, ref: HfRef | None, take: bool, watcher: Watcher) -> Adopted:
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        with Engine(Limits()) as engine:
            adopter = Adopter(store, Stager(store, engine, client), endpoint_of(os.environ))
            return adopter.adopt(path, ref=ref, take=take, watcher=watcher)
    finally:
        client.close()
