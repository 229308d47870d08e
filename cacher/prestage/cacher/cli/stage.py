"""`prestage stage`: by the agent that owns the store, else in this process."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from prestage.cacher.cli.asking import MakingWay, agent_of, followed
from prestage.cacher.cli.session import Rate, Size, checked_root, json_option, owning, patterns_options, root_option, wait_option
from prestage.cacher.cli.terminal import Bar, JsonLines, summary
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.staging.events import Event, Events, done
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.ports import Cancelled
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
    means = _Means(_limits(**engine_options), rate)
    display = JsonLines() if as_json else Bar(parsed.name)
    try:
        last = _staged(checked_root(root), ref, Selection(include, exclude), display, wait_s=wait_s, budget=budget, means=means)
    finally:
        display.stop()
    if as_json:
        return
    click.echo(f"{last['artifact']}  {summary(last)}")
    if last["identity"] == "weak":
        click.echo("prestage: weak identity: the origin gives nothing but a size to tell versions apart", err=True)
    click.echo(str(last["path"]))


@dataclass(frozen=True, slots=True)
class _Means:
    """What the engine of a stage without an agent works by."""

    limits: Limits
    rate: Schedule | None


def _staged(
    root: Path, ref: str, selection: Selection, display: JsonLines | Bar, *, wait_s: float, budget: int | None, means: _Means
) -> Event:
    """The last event, `done`; every event was shown."""
    request = {"ref": ref, "include": list(selection.include), "exclude": list(selection.exclude)}
    if agent_of(root) is None:
        with suppress(Cancelled), owning(root, wait_s=wait_s, budget_bytes=budget) as store:
            return _stage(store, Wish(parse_ref(ref), selection), means, display)
        display.show({"event": "trouble", "message": "an agent takes over the store: it goes on with this"})
    elif budget is not None or means != _Means(Limits(), None):
        click.echo(
            "prestage: the agent that owns the store has its own budget and limits: those given here do not count", err=True
        )
    last: Event = {}
    for event in followed(root, "/v1/stage", request):
        display.show(event)
        last = event
    return last


def _limits(*, connections: object = None, background: object = False) -> Limits:
    exact = connections if isinstance(connections, int) else None
    return Limits(
        connections_start=exact or Limits().connections_start,
        connections_max=exact or Limits().connections_max,
        niceness=10 if background else 0,
    )


def _stage(store: Store, wish: Wish, means: _Means, display: JsonLines | Bar) -> Event:
    """In this process.

    Raises:
        Cancelled: an agent wants the store; what was fetched is journaled.
    """
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        with Engine(means.limits, RateLimit(means.rate)) as engine:
            making_way = MakingWay(store.root)
            origin = open_origin(wish.ref, client=client, environ=os.environ, cancel=making_way)
            last = done(Stager(store, engine, client).stage(wish, origin, Events(display.show), making_way))
            display.show(last)
            return last
    finally:
        client.close()
