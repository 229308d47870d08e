"""`prestage pin|unpin|evict|run`: what stays, what goes, what stays while a command runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import click

from prestage.cacher.cli.asking import asked
from prestage.cacher.cli.session import checked_root, owning, patterns_options, reading, root_option, selection_of, wait_option
from prestage.cacher.cli.terminal import human_bytes
from prestage.cacher.errors import Misconfigured


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
def run(ref: str, command: tuple[str, ...], root: Path | None, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    """Run COMMAND while REF is held; PRESTAGE_MODEL_PATH is its directory.

    \b
    prestage run --root DIR hf://org/name@main -- python serve.py
    The exit code is the command's.
    """
    if not command:
        raise Misconfigured("no command to run", hint="prestage run [--root DIR] REF -- COMMAND ...")
    with reading(root) as store:
        artifact = store.lookup(ref, selection_of(include, exclude))
        hold = store.hold(artifact, kind="run", pid=os.getpid(), note=command[0])
        try:
            environment = {**os.environ, "PRESTAGE_MODEL_PATH": str(store.path(artifact)), "PRESTAGE_ARTIFACT": artifact}
            code = _run(command, environment)
        finally:
            store.drop_hold(artifact, hold)
    sys.exit(code)


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
