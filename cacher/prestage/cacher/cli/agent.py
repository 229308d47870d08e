"""`prestage agent|status|why|pause|resume`: the service on a node, and asking it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from prestage.cacher.agent.client import AgentClient, AgentGone
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.cli.asking import agent_of
from prestage.cacher.cli.session import Rate, Size, checked_root, json_option, patterns_options, root_option
from prestage.cacher.cli.terminal import human_bytes, human_seconds
from prestage.cacher.errors import Misconfigured, NotFound, Unavailable
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.store.layout import SOCKET
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.schedule import Schedule


class Address(click.ParamType[tuple[str, int] | None]):
    """HOST:PORT, or `none`."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int] | None:
        """Both apart."""
        text = str(value)
        if text == "none":
            return None
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{text!r} is not an address; write 127.0.0.1:9100, [::]:9100 or none", param, ctx)
        return host.strip("[]"), int(port)


@click.command()
@root_option
@click.option("--socket", type=click.Path(path_type=Path), help="Where to listen; default: agent.sock in the store.")
@click.option(
    "--budget", type=Size(), help="Most bytes the store may hold, e.g. 500G; default: what the disk has, less the margin."
)
@click.option(
    "--margin",
    type=Size(),
    help="Bytes left free; default: little on a disk of its own, above the kubelet's thresholds on its disk.",
)
@click.option("--listen", default="127.0.0.1:9464", show_default=True, help="HOST:PORT of metrics and health, or none.")
@click.option("--rate", type=Rate(), help='Most bytes a second in, by time of day too: "200M, 22:00-06:00=unlimited".')
@click.option("--connections", type=click.IntRange(1, 32), help="Exactly so many connections; default: 8, then by what pays.")
@click.option(
    "--niceness", type=click.IntRange(0, 19), default=10, show_default=True, help="Of fetching; above 0 also the idle I/O class."
)
@click.option("--scrub-rate", type=Size(), default="50M", show_default=True, help="Bytes a second read again at idle; 0: never.")
@click.option("--serve", default="none", show_default=True, help="HOST:PORT on which peers may fetch blobs, or none.")
@click.option("--serve-token-file", type=click.Path(path_type=Path), help="One token a line; each lets a peer in.")
@click.option("--serve-workers", type=click.IntRange(1, 32), default=2, show_default=True, help="Processes that serve.")
@click.option("--serve-rate", type=Rate(), help="Most bytes a second out, by time of day too.")
@click.option("--admin-uid", type=int, multiple=True, help="Lets this user do everything.")
@click.option("--reader-uid", type=int, multiple=True, help="Lets this user look, resolve and hold.")
@click.option("--log", "log_format", type=click.Choice(["json", "text"]), default="json", show_default=True)
def agent(
    root: Path | None,
    socket: Path | None,
    budget: int | None,
    margin: int | None,
    listen: str,
    rate: Schedule | None,
    connections: int | None,
    niceness: int,
    scrub_rate: int,
    serve: str,
    serve_token_file: Path | None,
    serve_workers: int,
    serve_rate: Schedule | None,
    admin_uid: tuple[int, ...],
    reader_uid: tuple[int, ...],
    log_format: str,
) -> None:
    """Own the store and serve it: stage, keep, heal, answer.

    \b
    prestage agent --root /var/cache/prestage --budget 500G
    Ends in 5 s on SIGTERM; the next one goes on with every transfer where it was.
    """
    from prestage.cacher.agent import app, logs

    place = checked_root(root)
    limits = Limits(
        connections_start=connections or Limits().connections_start,
        connections_max=connections or Limits().connections_max,
        niceness=niceness,
    )
    serving = _serving(place, Address().convert(serve, None, None), serve_token_file, serve_workers)
    config = AgentConfig(
        root=place,
        socket=(socket or place / SOCKET).absolute(),
        budget_bytes=budget,
        margin_bytes=margin,
        listen=Address().convert(listen, None, None),
        admins=frozenset(admin_uid),
        readers=frozenset(reader_uid),
        limits=limits,
        rate=rate,
        scrub_bytes_per_s=float(scrub_rate),
        serving=serving,
        serving_rate=serve_rate,
        trusted=frozenset(os.environ.get("PRESTAGE_TRUSTED_AUTHORITIES", "").split()),
    )
    logs.set_up(as_json=log_format == "json")
    app.run(config)


def _serving(root: Path, address: tuple[str, int] | None, token_file: Path | None, workers: int) -> ServingConfig | None:
    if address is None:
        return None
    if token_file is None:
        raise Misconfigured("--serve without --serve-token-file would serve nobody", hint="write a token into a file, mode 0600")
    return ServingConfig(root, token_file, host=address[0], port=address[1], workers=workers)


def _client(root: Path | None) -> AgentClient:
    place = checked_root(root)
    client = agent_of(place)
    if client is None:
        raise NotFound(f"no agent owns {place}", hint="start one: prestage agent --root DIR")
    return client


def _ask(root: Path | None, method: str, path: str, **query: object) -> dict[str, object]:
    try:
        return _client(root).call(method, path, query=query)
    except AgentGone as exc:
        raise Unavailable(f"the agent has gone: {exc}", hint="run the same command again") from exc


@click.command()
@root_option
@json_option
def status(root: Path | None, as_json: bool) -> None:
    """What the agent is doing."""
    answer = _ask(root, "GET", "/v1/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    usage, stages = answer["usage"], answer["stages"]
    assert isinstance(usage, dict)
    assert isinstance(stages, list)
    word = "ready" if answer["ready"] else "ending"
    click.echo(f"agent {answer['version']} (pid {answer['pid']}): {word}{', paused' if answer['paused'] else ''}")
    click.echo(
        f"store {answer['root']}: {answer['artifacts']} artifacts, {human_bytes(usage['used'])} of {human_bytes(usage['limit'])}"
    )
    if answer["metrics"]:
        click.echo(f"metrics http://{answer['metrics']}/metrics")
    for stage in stages:
        click.echo(f"{stage['id']}  {stage['state']:8}  {_progress(stage)}  {stage['ref']}")


def _progress(stage: dict[str, int]) -> str:
    if not stage["total"]:
        return "-"
    left = (stage["total"] - stage["bytes"]) / stage["bytes_per_s"] if stage["bytes_per_s"] else 0
    done = f"{stage['bytes'] / stage['total']:.0%} of {human_bytes(stage['total'])}"
    return done + (f" at {human_bytes(stage['bytes_per_s'])}/s, {human_seconds(left)} left" if left else "")


@click.command()
@click.argument("ref")
@root_option
@patterns_options
@json_option
def why(ref: str, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool) -> None:
    """Why REF (a ref or an artifact) is on this node, or is not."""
    answer = _ask(root, "GET", "/v1/explain", ref=ref, include=include, exclude=exclude)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    sentences = answer["why"]
    assert isinstance(sentences, list)
    click.echo(f"{answer['artifact'] or ref}: {answer['state']}")
    for sentence in sentences:
        click.echo(f"  {sentence}")


@click.command()
@click.argument("stage_id", metavar="[STAGE]", required=False)
@root_option
def pause(stage_id: str | None, root: Path | None) -> None:
    """Let STAGE (an id of `prestage status`), or everything but waiting pods' stages, stand still; over restarts too."""
    _ask(root, "POST", f"/v1/stages/{stage_id}/pause" if stage_id else "/v1/pause")
    click.echo("paused")


@click.command()
@click.argument("stage_id", metavar="[STAGE]", required=False)
@root_option
def resume(stage_id: str | None, root: Path | None) -> None:
    """Let STAGE, or everything, go on where it was."""
    _ask(root, "POST", f"/v1/stages/{stage_id}/resume" if stage_id else "/v1/resume")
    click.echo("resumed")
