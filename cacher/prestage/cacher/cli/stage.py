"""`prestage stage`: by the agent that owns the store, else in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from prestage.cacher import lockfile
from prestage.cacher.cli.asking import MakingWay, agent_of, followed
from prestage.cacher.cli.session import (
    Rate,
    Size,
    checked_root,
    json_option,
    owning,
    patterns_options,
    reading,
    root_option,
    wait_option,
)
from prestage.cacher.cli.terminal import Bar, JsonLines, summary
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Origin, Selection
from prestage.cacher.refs import Ref, parse_ref, text_of
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.staging.events import Event, Events, done
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.ports import Cancelled
from prestage.cacher.transfer.rate import RateLimit
from prestage.cacher.transfer.schedule import Schedule


@click.command()
@click.argument("ref", required=False)
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
    rate: Schedule | None,
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
    place, means = checked_root(root), _Means(_limits(**engine_options), rate, budget, wait_s)
    for wish in wishes:
        display = JsonLines() if as_json else Bar(wish.ref if isinstance(wish, lockfile.Pin) else wish.ref.name)
        try:
            last = _staged(place, wish, means, display)
        finally:
            display.stop()
        if not as_json:
            _tell(last)


def _tell(last: Event) -> None:
    click.echo(f"{last['artifact']}  {summary(last)}")
    if last["identity"] == "weak":
        click.echo(f"prestage: weak identity: {last.get('weakness')}", err=True)
    click.echo(str(last["path"]))


def _wishes(ref: str | None, selection: Selection, lock_file: Path | None) -> Sequence[Wish | lockfile.Pin]:
    if lock_file is None:
        if ref is None:
            raise Misconfigured("nothing to stage was named", hint="prestage stage REF, or prestage stage --lock FILE")
        return [Wish(parse_ref(ref), selection)]
    if selection != Selection():
        raise Misconfigured("--include and --exclude stand in the lock file already", hint="lock again with other patterns")
    return lockfile.chosen(lockfile.read(lock_file), ref)


@dataclass(frozen=True, slots=True)
class _Means:
    """What a stage without an agent works by."""

    limits: Limits
    rate: Schedule | None
    budget_bytes: int | None
    wait_s: float

    @property
    def are_said(self) -> bool:
        """Something was asked for that an agent has of its own."""
        return self.budget_bytes is not None or self.rate is not None or self.limits != Limits()


def _staged(root: Path, wish: Wish | lockfile.Pin, means: _Means, display: JsonLines | Bar) -> Event:
    """The last event, `done`; every event was shown."""
    if agent_of(root) is None:
        with suppress(Cancelled), owning(root, wait_s=means.wait_s, budget_bytes=means.budget_bytes) as store:
            return _stage(store, wish, means, display)
        display.show({"event": "trouble", "message": "an agent takes over the store: it goes on with this"})
    elif means.are_said:
        said = "the agent that owns the store has its own budget and limits: those given here do not count"
        click.echo(f"prestage: {said}", err=True)
    if isinstance(wish, lockfile.Pin):
        return _pin_by_agent(root, wish, display)
    return _by_agent(root, wish.ref, wish.selection, display)


def _by_agent(root: Path, ref: Ref, selection: Selection, display: JsonLines | Bar) -> Event:
    request = {"ref": text_of(ref), "include": list(selection.include), "exclude": list(selection.exclude)}
    last: Event = {}
    for event in followed(root, "/v1/stage", request):
        display.show(event)
        last = event
    return last


def _pin_by_agent(root: Path, pin: lockfile.Pin, display: JsonLines | Bar) -> Event:
    with reading(root) as store:
        if (here := lockfile.already_here(store, pin)) is not None:
            last = done(here)
            display.show(last)
            return last
        with lockfile.moved_is_told(pin):
            last = _by_agent(root, pin.place, pin.selection, display)
        store.record_ref(pin.ref, pin.selection, pin.artifact)
    return last


def _limits(*, connections: object = None, background: object = False) -> Limits:
    exact = connections if isinstance(connections, int) else None
    return Limits(
        connections_start=exact or Limits().connections_start,
        connections_max=exact or Limits().connections_max,
        niceness=10 if background else 0,
    )


def _stage(store: Store, wish: Wish | lockfile.Pin, means: _Means, display: JsonLines | Bar) -> Event:
    """In this process.

    Raises:
        Cancelled: an agent wants the store; what was fetched is journaled.
    """
    client = HttpClient(NetConfig.from_environ(os.environ))
    making_way, watcher = MakingWay(store.root), Events(display.show)

    def opener(ref: Ref) -> Origin:
        return open_origin(ref, client=client, environ=os.environ, cancel=making_way)

    try:
        with Engine(means.limits, RateLimit(means.rate)) as engine:
            stager = Stager(store, engine, client)
            if isinstance(wish, lockfile.Pin):
                staged = lockfile.stage_pin(store, stager, wish, opener, watcher=watcher, cancel=making_way)
            else:
                staged = stager.stage(wish, opener(wish.ref), watcher, making_way)
            last = done(staged)
            display.show(last)
            return last
    finally:
        client.close()
