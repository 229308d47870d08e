"""`prestage node`: the containers of one node. A subcommand is imported when it is named."""

from __future__ import annotations

import click

from prestage.node.mountpoint import mountpoint


@click.group()
def node() -> None:
    """The parts that run on every node; the chart starts them."""


node.add_command(mountpoint)
