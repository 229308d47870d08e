"""The command `kubectl-prestage`, which kubectl runs as `kubectl prestage`. Only the subcommand that runs is imported."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final, cast

import click

from prestage.cacher.cli import run
from prestage.cacher.net.config import VERSION

COMMANDS: Final = {
    "doctor": "prestage.kubectl.doctor:doctor",
    "enable": "prestage.kubectl.enable:enable",
    "models": "prestage.kubectl.models:models",
    "mounted": "prestage.kubectl.mounted:mounted",
    "nodes": "prestage.kubectl.nodes:nodes",
    "render": "prestage.kubectl.render:render",
    "status": "prestage.kubectl.status:status",
    "why": "prestage.kubectl.why:why",
}
"""Name to module and what of it."""


class Commands(click.Group):
    """Those of `COMMANDS`, imported when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names only; imports nothing."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return cast(click.Command, getattr(import_module(module), attribute))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="kubectl prestage")
def kubectl_prestage() -> None:
    """Models on the nodes of a cluster: what is where, why it is not yet, and what to apply.

    Exit codes are those of `prestage` (docs/cli.md).
    """


def main() -> None:
    """Entry point: run, turn errors into one line and their exit code."""
    sys.exit(run(sys.argv[1:], kubectl_prestage, "kubectl prestage"))
