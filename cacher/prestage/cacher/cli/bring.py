"""`prestage adopt|export|import`: what comes in and goes out without an origin."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import click

from prestage.cacher.adopting import Adopter
from prestage.cacher.archives.exporting import Exported
from prestage.cacher.archives.exporting import export as export_artifact
from prestage.cacher.archives.importing import import_archive
from prestage.cacher.cli.asking import agent_of, by_agent
from prestage.cacher.cli.session import (
    Size,
    checked_root,
    json_option,
    owning,
    patterns_options,
    reading,
    root_option,
    selection_of,
    wait_option,
)
from prestage.cacher.cli.terminal import Bar, JsonLines, human_bytes, human_seconds, summary
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins.huggingface import endpoint_of
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import HfRef, parse_ref
from prestage.cacher.staging import Stager, Watcher
from prestage.cacher.staging.events import Event, Events, done
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
    place, display = checked_root(root), JsonLines() if as_json else Bar(str(path))
    request = {"path": str(path.absolute()), "ref": ref or "", "take": take}
    try:
        last = by_agent(place, "/v1/adopt", request, display.show)
        if last is None:
            with owning(place, wait_s=wait_s, budget_bytes=budget) as store:
                last = _adopt(store, path, parsed, take, Events(display.show))
            display.show(last)
    finally:
        display.stop()
    _tell_brought(last, as_json=as_json)


def _adopt(store: Store, path: Path, ref: HfRef | None, take: bool, watcher: Watcher) -> Event:
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        with Engine(Limits()) as engine:
            adopter = Adopter(store, Stager(store, engine, client), endpoint_of(os.environ))
            return adopter.adopt(path, ref=ref, take=take, watcher=watcher).to_event()
    finally:
        client.close()


def _tell_brought(last: Event, *, as_json: bool) -> None:
    """What came in, in words; as JSON its events were shown already."""
    if as_json:
        return
    click.echo(f"{last['artifact']}  {summary(last)}")
    if last["ref"]:
        click.echo(f"prestage: known as {last['ref']}", err=True)
    notes = last.get("notes", ())
    for note in notes if isinstance(notes, (list, tuple)) else ():
        click.echo(f"prestage: {note}", err=True)
    click.echo(str(last["path"]))


@click.command()
@click.argument("ref")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@root_option
@patterns_options
@json_option
def export(
    ref: str, file: Path, force: bool, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool
) -> None:
    """Write REF (a ref or an artifact) to FILE: a tar with everything that `prestage import` checks. FILE `-` is stdout."""
    if as_json and str(file) == "-":
        raise Misconfigured("stdout cannot carry both the archive and --json", hint="name a file")
    with reading(root) as store:
        artifact = store.lookup(ref, selection_of(include, exclude))
        known = [known for known in store.refs(artifact) if not ref.startswith("sha256:")] or list(store.refs(artifact))
        name, selection = (known[0].ref, Selection(known[0].include, known[0].exclude)) if known else ("", Selection())
        display = JsonLines() if as_json else Bar(f"exporting {ref}")
        watcher = Events(display.show)
        watcher.resolved(store.manifest(artifact), store.manifest(artifact).size_bytes)
        try:
            to = _stdout() if str(file) == "-" else file
            done = export_artifact(store, artifact, to, ref=name, selection=selection, force=force, watcher=watcher)
        finally:
            display.stop()
    _tell_exported(done, file, as_json=as_json)


def _tell_exported(done: Exported, file: Path, *, as_json: bool) -> None:
    if as_json:
        row = {"event": "done", "artifact": done.artifact, "ref": done.ref, "file": str(file), "files": done.files}
        click.echo(json.dumps({**row, "bytes": done.bytes, "seconds": round(done.seconds, 3)}))
        return
    rate = f"{human_bytes(done.bytes / max(done.seconds, 1e-3))}/s"
    what = f"{done.files} files, {human_bytes(done.bytes)} in {human_seconds(done.seconds)} ({rate})"
    click.echo(f"{done.artifact}  {what}", err=str(file) == "-")


def _stdout() -> int:
    sys.stdout.flush()
    if sys.stdout.isatty():
        raise Misconfigured(
            "an archive is not written to a terminal", hint="name a file, or pipe it: prestage export REF - | ..."
        )
    return sys.stdout.fileno()


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@root_option
@wait_option
@budget_option
@json_option
def import_(file: Path, root: Path | None, wait_s: float, budget: int | None, as_json: bool) -> None:
    """Make the store hold what `prestage export` wrote to FILE, every byte checked. FILE `-` is stdin."""
    source = sys.stdin.fileno() if str(file) == "-" else file.absolute()
    if isinstance(source, int) and stat.S_ISCHR(os.fstat(source).st_mode):
        raise Misconfigured("stdin is no archive", hint="pipe one in, or name a file")
    place, display = checked_root(root), JsonLines() if as_json else Bar(f"importing {file}")
    try:
        if isinstance(source, int):
            if agent_of(place) is not None:
                raise Misconfigured("an agent owns the store, and cannot read this command's stdin", hint="name a file")
            last = None
        else:
            last = by_agent(place, "/v1/import", {"path": str(source)}, display.show)
        if last is None:
            with owning(place, wait_s=wait_s, budget_bytes=budget) as store:
                staged, ref = import_archive(store, source, watcher=Events(display.show))
            last = {**done(staged), "ref": ref}
            display.show(last)
    finally:
        display.stop()
    _tell_brought(last, as_json=as_json)
