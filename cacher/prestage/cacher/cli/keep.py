"""`prestage pin|unpin|evict|run`: what stays, what goes, what stays while a command runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from prestage.cacher.cli.asking import asked
from prestage.cacher.cli.session import checked_root, owning, patterns_options, reading, root_option, selection_of, wait_option
from prestage.cacher.cli.terminal import human_bytes
from prestage.cacher.errors import Misconfigured
from prestage.cacher.store.composing import Part
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms


@click.command()
@click.argument("ref")
@root_option
@patterns_options
def pin(ref: str, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    """Never evict REF (a ref or an artifact) until it is unpinned."""
    with reading(root) as store:
        artifact = store.lookup(ref, selection_of(include, exclude))
        store.hold(artifact, kind="pin", note="prestage pin")
        click.echo(f"{artifact} pinned")


@click.command()
@click.argument("ref")
@root_option
@patterns_options
def unpin(ref: str, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    """Take every pin off REF (a ref or an artifact)."""
    with reading(root) as store:
        artifact = store.lookup(ref, selection_of(include, exclude))
        count = store.unpin(artifact)
        click.echo(f"{artifact} " + ("unpinned" if count else "was not pinned"))


@click.command()
@click.argument("ref")
@root_option
@patterns_options
@wait_option
def evict(ref: str, root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...], wait_s: float) -> None:
    """Let go of REF (a ref or an artifact). Refused while it is held."""
    named = {"ref": ref, "include": list(include), "exclude": list(exclude)}
    answer = asked(checked_root(root), lambda agent: agent.call("POST", "/v1/evict", named))
    if answer is None:
        with owning(root, wait_s=wait_s) as store:
            artifact = store.lookup(ref, selection_of(include, exclude))
            answer = {"artifact": artifact, "freed_bytes": store.evict(artifact)}
    click.echo(f"{answer['artifact']} evicted, {human_bytes(int(str(answer['freed_bytes'])))} freed")


@click.command()
@click.argument("ref")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@root_option
@patterns_options
@click.option(
    "--hf", "as_hub", is_flag=True, help="Let COMMAND find REF in the Hugging Face cache, offline, by its repository id."
)
@click.option("--repo", metavar="ORG/NAME", help="With --hf: the repository id, where REF did not come from a hub.")
def run(
    ref: str,
    command: tuple[str, ...],
    root: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_hub: bool,
    repo: str | None,
) -> None:
    """Run COMMAND while REF is held; PRESTAGE_MODEL_PATH is its directory.

    \b
    prestage run --root DIR hf://org/name@main -- python serve.py
    prestage run --hf hf://org/name@main -- vllm serve org/name
    The exit code is the command's.
    """
    if not command:
        raise Misconfigured("no command to run", hint="prestage run [--root DIR] REF -- COMMAND ...")
    if repo is not None and not as_hub:
        raise Misconfigured("--repo says as what --hf shows REF", hint="add --hf")
    with reading(root) as store:
        part = store.part("model", ref, selection=selection_of(include, exclude), repo=repo)
        if as_hub and part.repo is None:
            raise Misconfigured(f"{ref} did not come from a hub", hint="say which repository it is to be: --repo org/name")
        with _held(store, part, command[0], as_hub=as_hub) as hub:
            path = str(store.path(part.artifact))
            code = _run(command, {**os.environ, **hub, "PRESTAGE_MODEL_PATH": path, "PRESTAGE_ARTIFACT": part.artifact})
    sys.exit(code)


@contextmanager
def _held(store: Store, part: Part, note: str, *, as_hub: bool) -> Iterator[dict[str, str]]:
    """Hold `part`, as a tree for a client of the hub where that is asked for: what such a client must be told."""
    if not as_hub:
        hold = store.hold(part.artifact, kind="run", pid=os.getpid(), note=note)
        try:
            yield {}
        finally:
            store.drop_hold(part.artifact, hold)
        return
    tree = store.compose([part], Terms("run", pid=os.getpid(), note=note))
    try:
        yield {"HF_HUB_CACHE": str(tree.hub), "HF_HUB_OFFLINE": "1"}
    finally:
        store.drop_tree(tree.hold)


def _run(command: tuple[str, ...], environment: dict[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own command
    except OSError as exc:
        raise Misconfigured(f"cannot run {command[0]!r}: {exc.strerror}", hint="check the command after --") from exc

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
    # Ctrl-C reaches the child by the terminal: we only wait for what it makes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = child.wait()
    return code if code >= 0 else 128 - code
