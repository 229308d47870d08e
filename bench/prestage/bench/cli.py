"""`prestage bench`: the composition root of the bench, and the only reader of its flags.

Progress goes to stderr, results to stdout: a table, or with `--json` one JSON object (schema: `start.py`, `fetch.py`, …).
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console, RenderableType

from prestage.cacher.cli.session import Size, checked_root, root_option
from prestage.cacher.errors import Misconfigured

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LATE = {"load": "prestage.bench.load", "plan": "prestage.bench.plan.command"}
"""Commands whose imports not everybody has, or pays for."""
_GB = 10**9


class BenchGroup(click.Group):
    """Holds those too that are imported only when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, sorted."""
        return sorted({*super().list_commands(ctx), *_LATE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One by name."""
        if cmd_name not in _LATE:
            return super().get_command(ctx, cmd_name)
        try:
            return cast(click.Command, getattr(importlib.import_module(_LATE[cmd_name]), cmd_name))
        except ModuleNotFoundError as exc:
            return _unavailable(cmd_name, exc.name or _LATE[cmd_name])


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure: cold starts against warm ones, our downloads against the rivals'."""


def _output_options(command: _Command) -> _Command:
    command = click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot.")(command)
    command = click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report.")(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    return click.option("--seed", default=1, show_default=True, help="Of the order in which variants run.")(command)


def _dir_option(command: _Command) -> _Command:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where downloads go, on the disk to be measured; default: here. Cleaned up.",
    )(command)


@bench.command()
@click.argument("ref")
@root_option
@_dir_option
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--cold-client",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto: what people use for this kind of ref; none: leave the cold download out.",
)
@_output_options
def start(ref: str, root: Path | None, directory: Path | None, rounds: int, cold_client: str, **output: Any) -> None:
    """How long until a serving process answers: cold as pods do today, staged, and warm.

    Stages REF, then starts a fresh process per run, variants in turns.
    """
    from prestage.bench import usual
    from prestage.bench.scratch import scratch_folder
    from prestage.bench.start import StartJob, measure

    if cold_client == "auto":
        usual.client_of(ref)
    place = directory or Path.cwd()
    with scratch_folder(place, ".prestage-bench-") as scratch:
        job = StartJob(
            ref=ref,
            root=checked_root(root),
            scratch=scratch,
            rounds=rounds,
            seed=output["seed"],
            with_cold_origin=cold_client == "auto",
        )
        result = measure(job, _tell)
    _put(result.to_json(), output, starts=[result])


@bench.command()
@click.argument("ref")
@_dir_option
@click.option("--rivals", default="all", show_default=True, help="Names separated by commas, `all` or `none`.")
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 32))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CA bundle that all tools are to trust.")
@_output_options
def fetch(ref: str, directory: Path | None, rivals: str, connections: int, rounds: int, **output: Any) -> None:
    """One object (an http(s):// or s3:// REF) to disk, verified: ours against s5cmd, rclone, aria2c, curl and others.

    The endpoint of s3:// comes from AWS_ENDPOINT_URL. Tools that are not installed are left out and named.
    """
    from prestage.bench import fetch as fetching
    from prestage.bench.reference import read_reference
    from prestage.bench.rivals.ports import Target
    from prestage.bench.scratch import scratch_folder

    if not ref.startswith(("http://", "https://", "s3://")):
        raise Misconfigured(f"cannot compare tools on {ref!r}", hint="name one object: https://host/file or s3://bucket/key")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    target = Target(ref, connections, output["ca"], endpoint if ref.startswith("s3://") else None)
    tools = _tools(rivals)
    _tell("reading the object once, to know what is right")
    reference = read_reference(target)
    with scratch_folder(directory or Path.cwd(), ".prestage-bench-") as scratch:
        job = fetching.FetchJob(target, scratch, tools, rounds, output["seed"])
        result = fetching.measure(job, reference, _tell)
    _put(result.to_json(), output, fetches=[result])


@bench.command()
@_dir_option
@click.option("--size", type=Size(), default=_GB, help="Of the blob, e.g. 1G (default).")
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 16), help="Processes of each server.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, help="Of the order in which servers are asked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def serve(directory: Path | None, size: int, connections: int, workers: int, rounds: int, seed: int, as_json: bool) -> None:
    """One blob from the page cache to many connections: our server against nginx and aiohttp, speed and CPU."""
    from prestage.bench import serve as serving
    from prestage.bench.scratch import scratch_folder

    with scratch_folder(directory or Path.cwd(), ".prestage-bench-") as scratch:
        result = serving.measure(serving.ServeJob(scratch, size, connections, workers, rounds, seed), _tell)
    _show(result.to_json(), serving.serve_table(result), as_json=as_json)


@bench.command()
@_dir_option
@click.option("--blobs", default=100_000, show_default=True, type=click.IntRange(1, 10**7))
@click.option("--artifacts", default=100, show_default=True, type=click.IntRange(1, 10**5))
@click.option("--size", type=Size(), default=512 << 20, help="Of the blob that is verified; default 512Mi.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def store(directory: Path | None, blobs: int, artifacts: int, size: int, rounds: int, as_json: bool) -> None:
    """What the store's operations cost among many blobs: open, resolve, hold, list, stage, evict, verify."""
    from prestage.bench import store as storing
    from prestage.bench.scratch import scratch_folder

    with scratch_folder(directory or Path.cwd(), ".prestage-bench-") as scratch:
        result = storing.measure(storing.StoreJob(scratch, blobs, artifacts, size, rounds), _tell)
    _show(result.to_json(), storing.store_table(result), as_json=as_json)


@bench.command()
@_dir_option
@click.option("--idle", "idle_s", default=30.0, show_default=True, type=click.FloatRange(1), help="Seconds at rest.")
@click.option("--resolves", default=2000, show_default=True, type=click.IntRange(10))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def agent(directory: Path | None, idle_s: float, resolves: int, as_json: bool) -> None:
    """What the agent costs at rest, how soon it resolves a warm ref, how old a progress it shows can be."""
    from prestage.bench.agent import measure
    from prestage.bench.scratch import scratch_folder

    with scratch_folder(directory or Path.cwd(), ".prestage-bench-") as scratch:
        result = measure(scratch.absolute(), idle_s=idle_s, resolves=resolves, tell=_tell)
    click.echo(json.dumps(result.to_json()) if as_json else "\n".join(result.lines()))


@bench.command()
@click.option("-n", "--namespace", required=True, help="One that takes part: kubectl prestage enable.")
@click.option("--model", "models", multiple=True, required=True, metavar="NAME=REF", help="As in the annotation.")
@click.option("--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Such as prestage.dev/credentials=hf.")
@click.option("--image", required=True, help="That both pods run; on the node already, or the pull is measured too.")
@click.option("--command", default="sleep 3600", show_default=True, help="That goes on.")
@click.option("--pull-policy", type=click.Choice(["IfNotPresent", "Never"]), default="IfNotPresent", show_default=True)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, help="Of the order in which pods run.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: as kubectl.")
@click.option("--context", help="Of the kubeconfig; default: its current one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pod(
    namespace: str, models: Sequence[str], annotations: Sequence[str], kubeconfig: Path | None, context: str | None, **rest: Any
) -> None:
    """What a staged model costs a pod's start: create to running, with the model and without, alternated on one node.

    A first pod brings the model there and is not counted. Its own pods are deleted, whatever happens.
    """
    from prestage.bench import pod as podding
    from prestage.bench.pod_run import measure
    from prestage.kubectl.asking import ask

    asked = podding.annotations_of(models, annotations)
    job = podding.PodJob(
        namespace, asked, rest["image"], tuple(shlex.split(rest["command"])), rest["pull_policy"], rest["rounds"], rest["seed"]
    )
    result = ask(kubeconfig, context, lambda api: measure(api, job, _tell))
    _show(result.to_json(), podding.pod_table(result), as_json=rest["as_json"])


@bench.command()
@click.option("-n", "--namespace", required=True, help="One that takes part: kubectl prestage enable.")
@click.option("--refs", required=True, help="With {n} in it, a number from 0: hf://org/m{n}@main")
@click.option("--part", "parts", multiple=True, required=True, metavar="NAME=URL", help="planner=http://HOST:8081/metrics; ...")
@click.option("--nodes", default=500, show_default=True, type=click.IntRange(1, 5000))
@click.option("--pods", default=2000, show_default=True, type=click.IntRange(1, 20_000))
@click.option("--replicas", default=10, show_default=True, type=click.IntRange(1, 1000), help="Pods of each Deployment.")
@click.option("--alone", default=20, show_default=True, type=click.IntRange(1, 1000), help="Deployments one after the other.")
@click.option("--patience", "patience_s", default=300.0, show_default=True, help="Seconds that a step may take.")
@click.option("--settle", "settle_s", default=2.0, show_default=True, help="Seconds without a write that end a phase.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: as kubectl.")
@click.option("--context", help="Of the kubeconfig; default: its current one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def control(namespace: str, parts: Sequence[str], kubeconfig: Path | None, context: str | None, **rest: Any) -> None:
    """What the control plane needs for many nodes and pods: own time, CPU, memory, API writes. For a cluster to play with.

    Makes fake nodes, which kwok must keep Ready, stands in for their agents, and takes all of it away again.
    """
    from prestage.bench import control as controlling
    from prestage.bench.control_run import measure
    from prestage.kubectl.asking import ask

    as_json = rest.pop("as_json")
    job = controlling.ControlJob(namespace, parts=controlling.parts_of(parts), **rest)
    result = ask(kubeconfig, context, lambda api: measure(api, job, _tell))
    _show(result.to_json(), controlling.control_table(result), as_json=as_json)


@bench.command()
@click.argument("ref")
@click.option("--containerd", "socket", type=click.Path(path_type=Path), required=True, help="Of one that nobody else uses.")
@_dir_option
@click.option("--throttle", type=Size(), help="Bytes a second that a connection gets, e.g. 80M; registries on loopback only.")
@click.option("--in-place", is_flag=True, help="Stage with layers' files put into containerd's content folder.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, help="Of the order in which pulls and stagings run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def image(
    ref: str, socket: Path, directory: Path | None, throttle: int | None, in_place: bool, rounds: int, seed: int, as_json: bool
) -> None:
    """An image (oci://registry/repository:tag) staged by us and pulled by containerd, and pulled once it is staged.

    It is removed from that containerd before and after each of them.
    """
    from prestage.bench import image as imaging
    from prestage.bench.image_run import ImageJob, measure
    from prestage.bench.scratch import scratch_folder
    from prestage.images.cli import login_for
    from prestage.images.names import parse_oci

    name = parse_oci(ref)
    with scratch_folder(directory or Path.cwd(), ".prestage-bench-") as scratch:
        job = ImageJob(name, socket, scratch.absolute(), login_for(name, os.environ), rounds, seed, throttle, in_place)
        result = measure(job, _tell)
    _show(result.to_json(), imaging.image_table(result), as_json=as_json)


@bench.command("make-model")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", type=Size(), default=2 * _GB, help="Tensor bytes, e.g. 2G (default).")
@click.option("--shard", type=Size(), default=_GB, help="Most tensor bytes in a file, e.g. 1G (default).")
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def make_model(directory: Path, size: int, shard: int, seed: int, as_json: bool) -> None:
    """Write a Llama-shaped checkpoint (bf16 safetensors in shards, index, config) of any size, the same for the same seed."""
    from prestage.bench.checkpoint import make_checkpoint
    from prestage.cacher.cli.terminal import human_bytes

    made = make_checkpoint(directory, size, seed=seed, shard_bytes=shard)
    if as_json:
        about = {"directory": str(made.directory), "bytes": made.size_bytes, "tensors": made.tensors, "sha256": made.sha256}
        click.echo(json.dumps(about))
        return
    click.echo(f"{made.directory}: {made.tensors} tensors in {len(made.shards)} shards, {human_bytes(made.size_bytes)}")


def _unavailable(command: str, module: str) -> click.Command:
    def fail(**_: object) -> None:
        raise Misconfigured(f"`prestage bench {command}` needs {module}", hint="pip install 'prestage[bench]'")

    return click.Command(command, callback=fail, help="Not installed.")


def _tools(rivals: str) -> tuple[str, ...]:
    from prestage.bench.rivals.known import OURS, RIVALS

    if rivals == "all":
        return (OURS, *RIVALS)
    named = [name.strip() for name in rivals.split(",") if name.strip()] if rivals != "none" else []
    unknown = [name for name in named if name not in RIVALS]
    if unknown:
        raise Misconfigured(f"unknown rival {unknown[0]!r}", hint=f"known: {', '.join(RIVALS)}")
    return (OURS, *named)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _put(content: dict[str, object], output: dict[str, Any], *, starts: Sequence[Any] = (), fetches: Sequence[Any] = ()) -> None:
    """Whatever was asked for; the table or the JSON last."""
    from prestage.bench import plots, tables
    from prestage.bench.report import write_report

    if output["png"]:
        if starts:
            plots.plot_start(starts, output["png"])
        for result in fetches:
            plots.plot_fetch(result, output["png"])
        _tell(f"plot: {output['png']}")
    if output["html"]:
        write_report(output["html"], starts=starts, fetches=fetches)
        _tell(f"report: {output['html']}")
    shown = [*(tables.start_table(result) for result in starts), *(tables.fetch_table(result) for result in fetches)]
    _show(content, *shown, as_json=output["as_json"])


def _show(content: dict[str, object], *shown: RenderableType, as_json: bool) -> None:
    from prestage.bench import tables

    if as_json:
        click.echo(json.dumps(content))
        return
    console = Console()
    tables.show(console if console.is_terminal else Console(width=160), *shown)
