"""`prestage lock`: write down which artifact each ref stands for, and see what moved since."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from prestage.cacher import lockfile
from prestage.cacher.cli.session import json_option, patterns_options
from prestage.cacher.cli.terminal import human_bytes
from prestage.cacher.errors import NotFound
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref


@click.command()
@click.argument("refs", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), default=lockfile.FILE_NAME, show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; exit code 3 if a ref stands for something else by now.")
@patterns_options
@json_option
def lock(
    refs: tuple[str, ...], file: Path, check: bool, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool
) -> None:
    """Resolve REFS at their origins and write down what they stand for; without REFS, all that is in the file again.

    Refs that are in the file and not named stay as they are. `prestage stage --lock FILE` stages just what is locked.
    """
    with _opening() as opener:
        if check:
            pins = lockfile.read(file)
            named = [pin for ref in refs for pin in lockfile.chosen(pins, ref)] if refs else pins
            _tell_moved(lockfile.moved(named, opener), len(named), file, as_json=as_json)
            return
        before = lockfile.read(file) if file.exists() or not refs else []
        wanted = Selection(include, exclude)
        wishes = [(parse_ref(ref), wanted) for ref in refs] or [(parse_ref(pin.ref), pin.selection) for pin in before]
        now = lockfile.resolved(wishes, opener)
    old = {pin.key: pin for pin in before}
    lockfile.write(file, {**old, **{pin.key: pin for pin in now}}.values())
    _tell_locked(now, old, as_json=as_json)


@contextmanager
def _opening() -> Iterator[lockfile.Opener]:
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        yield lambda ref: open_origin(ref, client=client, environ=os.environ)
    finally:
        client.close()


def _row(pin: lockfile.Pin) -> dict[str, object]:
    patterns = {"include": list(pin.include), "exclude": list(pin.exclude)}
    return {
        "ref": pin.ref,
        **patterns,
        "revision": pin.revision,
        "artifact": pin.artifact,
        "files": pin.files,
        "bytes": pin.bytes,
    }


def _tell_locked(now: list[lockfile.Pin], old: Mapping[lockfile.Key, lockfile.Pin], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_row(pin) for pin in now], indent=2))
        return
    for pin in now:
        before = old.get(pin.key)
        news = "new" if before is None else "as before" if before.artifact == pin.artifact else f"was {before.artifact[:19]}"
        click.echo(f"{pin.artifact}  {pin.ref}  {pin.files} files, {human_bytes(pin.bytes)}  {news}")


def _tell_moved(moved: list[tuple[lockfile.Pin, lockfile.Pin]], count: int, file: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"ref": old.ref, "locked": _row(old), "now": _row(new)} for old, new in moved], indent=2))
    else:
        for old, new in moved:
            revisions = f" ({old.revision} -> {new.revision})" if old.revision and new.revision else ""
            click.echo(f"moved: {old.ref}: {old.artifact} -> {new.artifact}{revisions}")
    if moved:
        raise NotFound(f"{len(moved)} of {count} refs in {file} stand for something else now", hint="prestage lock takes it over")
    if not as_json:
        click.echo(f"{count} refs stand for what {file} says")
