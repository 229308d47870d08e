"""`prestage stage`: the composition root of a stage without an agent."""

from __future__ import annotations

import os
from pathlib import Path

import click

from prestage.cacher.cli.session import Rate, Size, json_option, owning, patterns_options, root_option, wait_option
from prestage.cacher.cli.terminal import BarWatcher, JsonWatcher, summary
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.rate import RateLimit
from prestage.cacher.transfer.schedule import Schedule


@click.command()
@click.argument("ref")
@root_option
@patterns_options
@wait_option
@click.option(
    "--budget", type=Size(), help="Most bytes the store may hold, e.g. 500G; default: what the disk has, less a margin."
)
@click.option(
    "--rate", type=Rate(), help='Most bytes a second, by time of day too: 200M, or "200M, 22:00-06:00=unlimited, sat,sun=1G".'
)
@click.option("--connections", type=click.IntRange(1, 32), help="Exactly so many connections; default: 8, then by what pays.")
@click.option("--background", is_flag=True, help="Give way to everything else: nice 10, idle I/O class.")
@json_option
def stage(
    ref: str,
    root: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    wait_s: float,
    budget: int | None,
    as_json: bool,
    rate: Schedule | None,
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
    parsed = parse_ref(ref)
    limits = _limits(**engine_options)
    with owning(root, wait_s=wait_s, budget_bytes=budget) as store:
        wish = Wish(parsed, Selection(include, exclude))
        if as_json:
            watcher = JsonWatcher()
            watcher.done(_stage(store, wish, Engine(limits, RateLimit(rate)), watcher))
            return
        bar = BarWatcher(parsed.name)
        try:
            staged = _stage(store, wish, Engine(limits, RateLimit(rate)), bar)
        finally:
            bar.stop()
    click.echo(f"{staged.artifact}  {summary(staged)}")
    if staged.is_weak:
        click.echo("prestage: weak identity: the origin gives nothing but a size to tell versions apart", err=True)
    click.echo(str(staged.path))


def _limits(*, connections: object = None, background: object = False) -> Limits:
    exact = connections if isinstance(connections, int) else None
    return Limits(
        connections_start=exact or Limits().connections_start,
        connections_max=exact or Limits().connections_max,
        niceness=10 if background else 0,
    )


def _stage(store: Store, wish: Wish, engine: Engine, watcher: Watcher) -> Staged:
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        with engine:
            origin = open_origin(wish.ref, client=client, environ=os.environ)
            return Stager(store, engine, client).stage(wish, origin, watcher)
    finally:
        client.close()
