"""`prestage control`: the Deployments of the control plane."""

from __future__ import annotations

import click

from prestage.control.admission.cli import admission, manifests, ungate
from prestage.control.broker.cli import broker
from prestage.control.planning.cli import planner


@click.group()
def control() -> None:
    """The parts that run once per cluster; the chart starts them."""


for command in (admission, broker, planner, manifests, ungate):
    control.add_command(command)
