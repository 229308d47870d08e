"""The command `prestage`. Subcommands are found by entry points (group `prestage.commands`), so that what lies below never
imports what lies above; only the one that runs is imported.

Exit codes are part of the contract (docs/cli.md): 0 done, 1 our bug, 2 misconfigured, 3 miss, 4 denied, 5 corrupt, 6 busy, 7
full, 8 unavailable, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import FrameType
from typing import cast

import click

from prestage.cacher.errors import PrestageError
from prestage.cacher.net.config import VERSION

_GROUP = "prestage.commands"
INTERRUPTED, TERMINATED = 130, 143


class Terminated(BaseException):
    """SIGTERM came: end in an orderly way, as for Ctrl-C."""


class LazyGroup(click.Group):
    """Subcommands by entry point, imported when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names only; imports nothing."""
        return sorted({point.name for point in _points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one."""
        for point in _points():
            if point.name == cmd_name:
                return cast(click.Command, point.load())
        return None


def _points() -> Sequence[EntryPoint]:
    return tuple(entry_points(group=_GROUP))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="prestage")
def prestage() -> None:
    """Model weights on this node's SSD before they are needed.

    \b
    A first run:
      export PRESTAGE_ROOT=/var/cache/prestage
      prestage stage hf://org/name@main
      prestage run hf://org/name@main -- python serve.py
    """


def main() -> None:
    """Entry point: run, turn errors into one line and their exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], command: click.Command = prestage, name: str = "prestage") -> int:
    """Run the command line of `command`; returns the exit code. Prints errors, never a traceback for what we raise on purpose."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _terminate)
    as_json = "--json" in arguments
    try:
        code = command.main(args=list(arguments), prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except PrestageError as exc:
        _tell(exc.kind, exc.message, exc.hint, as_json=as_json)
        return exc.exit_code
    except click.UsageError as exc:
        exc.show()
        return exc.exit_code
    except click.ClickException as exc:
        _tell("misconfigured", exc.format_message(), None, as_json=as_json)
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        _tell("interrupted", "interrupted", "what was fetched is kept; run the same command again to go on", as_json=as_json)
        return INTERRUPTED
    except Terminated:
        _tell("interrupted", "terminated", "what was fetched is kept; run the same command again to go on", as_json=as_json)
        return TERMINATED
    except BrokenPipeError:
        # The reader has gone (`prestage ls | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _tell(kind: str, message: str, hint: str | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "error", "kind": kind, "message": message, "hint": hint}))
    click.echo(f"prestage: {message}", err=True)
    if hint:
        click.echo(f"  {hint}", err=True)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
