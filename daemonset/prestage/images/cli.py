"""`prestage images`: layers of container images into this machine's containerd. The one reader of flags and environment here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click

from prestage.cacher.cli.session import Duration, Rate, json_option
from prestage.cacher.cli.terminal import Bar, JsonLines, human_bytes, human_seconds
from prestage.cacher.digests import artifact_id
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.rate import RateLimit
from prestage.cacher.transfer.schedule import Schedule
from prestage.images.doctor import findings
from prestage.images.logins import Login, Logins, parse_logins
from prestage.images.names import ImageName, parse_oci
from prestage.images.opening import Means, opened
from prestage.images.runtime import Containerd
from prestage.images.shelf import ShelfRow, listed
from prestage.images.stager import ImageStager, StagedImage, StagingTerms
from prestage.images.use import Use

_Command = TypeVar("_Command", bound=Callable[..., object])
_T = TypeVar("_T")
_FILE = click.Path(path_type=Path)
SOCKET = "/run/containerd/containerd.sock"


@click.group()
def images() -> None:
    """Container images' layers in containerd before a pod needs them. Needs containerd's socket, which is root on the node."""


def _containerd_options(command: _Command) -> _Command:
    for option in (
        click.option("--snapshotter", help="Default: the one that the kubelet's pulls use."),
        click.option("--containerd", "socket", type=_FILE, default=SOCKET, show_default=True, help="containerd's socket."),
    ):
        command = option(command)
    return command


@images.command()
@click.argument("ref")
@_containerd_options
@click.option("--keep", "lease_s", type=Duration(), default="24h", show_default=True, help="How long it stays unless renewed.")
@click.option("--drop-blobs", is_flag=True, help="Keep only what is unpacked: saves the compressed layers' bytes.")
@click.option(
    "--high-water", type=click.IntRange(1, 100), default=80, show_default=True, help="Most per cent of containerd's disk."
)
@click.option("--in-place", is_flag=True, help="Put layers' files into containerd's content folder: half the CPU; needs it here.")
@click.option("--plain-http/--tls", default=None, help="How the registry is spoken to; default: TLS, but for loopback.")
@click.option("--rate", type=Rate(), help='Most bytes a second, by time of day too: "200M, 22:00-06:00=unlimited".')
@json_option
def stage(
    ref: str,
    socket: Path,
    snapshotter: str | None,
    lease_s: float,
    drop_blobs: bool,
    high_water: int,
    in_place: bool,
    plain_http: bool | None,
    rate: Schedule | None,
    as_json: bool,
) -> None:
    """Make containerd hold the layers of REF, unpacked: oci://registry/repository:tag, or …@sha256:…

    A pod's own pull then asks the registry for the manifest, with its own credentials, and finds the rest here. Logins
    are those of Docker's config (DOCKER_CONFIG, ~/.docker/config.json). Killed or cut off, it goes on where it was.
    """
    name, display = parse_oci(ref), JsonLines() if as_json else Bar(ref)
    net = NetConfig.from_environ(os.environ)
    with closing(HttpClient(net)) as client, Engine(rate=RateLimit(rate)) as engine:
        means = Means(socket, engine, client, snapshotter, StagingTerms(lease_s, drop_blobs, high_water / 100, in_place))

        async def work() -> StagedImage:
            async with opened(name, means, login_for(name, os.environ), plain_http=plain_http) as it:
                resolved = {"artifact": it.image.artifact, "bytes": it.image.size_bytes, "missing_bytes": 0}
                display.show({"event": "resolved", **resolved})
                return await it.stager.stage(it.image, it.fetcher, lambda progress: display.show(progress.to_json()))

        try:
            staged = _run(work())
        finally:
            display.stop()
    if as_json:
        display.show({"event": "done", **asdict(staged)})
    else:
        click.echo(f"{staged.artifact}  {_told(staged)}")


@images.command("list")
@_containerd_options
@json_option
def list_(socket: Path, snapshotter: str | None, as_json: bool) -> None:
    """What is staged here, and until when."""

    async def work() -> None:
        async with await Containerd.connect(socket, snapshotter) as containerd:
            for one in await listed(containerd):
                if as_json:
                    click.echo(json.dumps(asdict(one)))
                else:
                    left = human_seconds(max(0.0, one.expires_at - time.time()))
                    size, use = human_bytes(one.size_bytes), _use(one)
                    click.echo(f"{one.artifact}  {one.state:8}  {size:>9}  {left:>7}  {use:10}  {one.name}")

    _run(work())


@images.command()
@click.argument("artifact")
@_containerd_options
def release(artifact: str, socket: Path, snapshotter: str | None) -> None:
    """Let go of ARTIFACT (as `list` prints it): what nothing else needs is removed at once."""

    async def work() -> None:
        async with await Containerd.connect(socket, snapshotter) as containerd:
            await ImageStager(containerd).release(artifact_id(artifact))

    _run(work())


@images.command()
@_containerd_options
@json_option
def doctor(socket: Path, snapshotter: str | None, as_json: bool) -> None:
    """What this containerd is, and what of it matters to staging."""

    async def work() -> None:
        async with await Containerd.connect(socket, snapshotter) as containerd:
            if as_json:
                click.echo(json.dumps(asdict(containerd.setup)))
            for finding in findings(containerd.setup) if not as_json else ():
                click.echo(f"{finding.mark}  {finding.text}")

    _run(work())


def login_for(name: ImageName, environ: Mapping[str, str]) -> Login | None:
    """From Docker's config.

    Raises:
        Misconfigured: a config that cannot be read.
    """
    folder = environ.get("DOCKER_CONFIG")
    path = Path(folder or Path(environ.get("HOME") or "/nonexistent") / ".docker") / "config.json"
    try:
        logins = parse_logins(path.read_bytes(), str(path))
    except FileNotFoundError:
        logins = Logins()
    except OSError as exc:
        raise Misconfigured(f"{path} cannot be read: {exc.strerror}", hint="check its mode") from exc
    return logins.of(name)


def _run(work: Coroutine[object, object, _T]) -> _T:
    """To its end, or to a signal: then what is under way is closed in order first."""

    async def watched() -> _T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        raise click.Abort from None


def _use(row: ShelfRow) -> str:
    if row.state != "warm":
        return ""
    return f"moved, {human_bytes(row.wasted_bytes)} wasted" if row.use is Use.MOVED else row.use


def _told(staged: StagedImage) -> str:
    fetched = f"{human_bytes(staged.fetched_bytes)} fetched" if staged.fetched_bytes else "all there"
    yielded = f", gave way to {staged.yielded} pulls" if staged.yielded else ""
    what = f"{staged.layers} layers, {human_bytes(staged.size_bytes)}"
    return f"{what} in {human_seconds(staged.seconds)} ({fetched}{yielded}): {staged.name}"
