"""`prestage stage`: the composition root of a stage without an agent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from prestage.cacher import lockfile
from prestage.cacher.cli.session import Size, json_option, owning, patterns_options, root_option, wait_option
from prestage.cacher.cli.terminal import BarWatcher, JsonWatcher, summary
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Origin, Selection
from prestage.cacher.refs import Ref, parse_ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits


@click.command()
@click.argument("ref", required=False)
@root_option
@patterns_options
@wait_option
@click.option(
    "--budget", type=Size(), help="Most bytes the store may hold, e.g. 500G; default: what the disk has, less a margin."
)
@click.option("--rate", type=Size(), help="Most bytes a second, e.g. 200M.")
@click.option("--connections", type=click.IntRange(1, 32), help="Exactly so many connections; default: 8, then by what pays.")
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Stage just what this lock file says (see `prestage lock`): all of it, or what REF or a short name picks.",
)
@click.option("--background", is_flag=True, help="Give way to everything else: nice 10, idle I/O class.")
@json_option
def stage(
    ref: str | None,
    root: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    wait_s: float,
    budget: int | None,
    as_json: bool,
    lock_file: Path | None,
    **engine_options: object,
) -> None:
    """Make the store hold REF: fetched, verified, ready as a directory.

    \b
    REF is one of
      hf://org/name@revision      s3://bucket/prefix/      https://host/file#sha256=...
      s3://bucket/key?versionId=  file:///dir              and with @sha256:... pinned to an artifact

    Killed or cut off, it goes on where it was: run it again. Credentials are the usual ones: HF_TOKEN, the AWS
    environment, profile or instance, ~/.netrc; proxies and CA by HTTPS_PROXY, NO_PROXY, PRESTAGE_CA_BUNDLE.
    """
    wishes = _wishes(ref, Selection(include, exclude), lock_file)
    limits = _limits(**engine_options)
    with owning(root, wait_s=wait_s, budget_bytes=budget) as store:
        for wish in wishes:
            if as_json:
                watcher = JsonWatcher()
                watcher.done(_stage(store, wish, limits, watcher))
            else:
                _stage_for_people(store, wish, limits)


def _wishes(ref: str | None, selection: Selection, lock_file: Path | None) -> Sequence[Wish | lockfile.Pin]:
    if lock_file is None:
        if ref is None:
            raise Misconfigured("nothing to stage was named", hint="prestage stage REF, or prestage stage --lock FILE")
        return [Wish(parse_ref(ref), selection)]
    if selection != Selection():
        raise Misconfigured("--include and --exclude stand in the lock file already", hint="lock again with other patterns")
    return lockfile.chosen(lockfile.read(lock_file), ref)


def _stage_for_people(store: Store, wish: Wish | lockfile.Pin, limits: Limits) -> None:
    bar = BarWatcher(wish.ref.name if isinstance(wish, Wish) else wish.ref)
    try:
        staged = _stage(store, wish, limits, bar)
    finally:
        bar.stop()
    click.echo(f"{staged.artifact}  {summary(staged)}")
    if staged.is_weak:
        click.echo(f"prestage: weak identity: {store.manifest(staged.artifact).weakness}", err=True)
    click.echo(str(staged.path))


def _limits(*, rate: object = None, connections: object = None, background: object = False) -> Limits:
    exact = connections if isinstance(connections, int) else None
    return Limits(
        connections_start=exact or Limits().connections_start,
        connections_max=exact or Limits().connections_max,
        rate_bytes_per_s=float(rate) if isinstance(rate, int) else None,
        niceness=10 if background else 0,
    )


def _stage(store: Store, wish: Wish | lockfile.Pin, limits: Limits, watcher: Watcher) -> Staged:
    client = HttpClient(NetConfig.from_environ(os.environ))

    def opener(ref: Ref) -> Origin:
        return open_origin(ref, client=client, environ=os.environ)

    try:
        with Engine(limits) as engine:
            stager = Stager(store, engine, client)
            if isinstance(wish, lockfile.Pin):
                return lockfile.stage_pin(store, stager, wish, opener, watcher=watcher)
            return stager.stage(wish, opener(wish.ref), watcher)
    finally:
        client.close()
