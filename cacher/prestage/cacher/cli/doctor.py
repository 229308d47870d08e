"""`prestage doctor`: what stands in the way of a good stage on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from prestage.cacher.cli.session import checked_root, json_option, root_option
from prestage.cacher.doctor.examination import examine
from prestage.cacher.doctor.findings import Finding, Level, exit_code
from prestage.cacher.doctor.judgement import judge

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command()
@root_option
@json_option
@click.option("--origin", metavar="REF", help="Resolve REF too: credential, network, and how far the clocks are apart.")
@click.option("--quick", is_flag=True, help="Do not measure the disk (256 MiB, some seconds).")
def doctor(root: Path | None, as_json: bool, origin: str | None, quick: bool) -> None:
    """Look at the disk, the network, the clock and the limits, and say what to do.

    Changes nothing. The exit code is 0 without errors, else that of the first error's class.
    """
    findings = judge(examine(checked_root(root), os.environ, quick=quick, origin=origin))
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        show(findings)
    sys.exit(exit_code(findings))


def show(findings: Sequence[Finding]) -> None:
    """For people: a line each, what to do below it, the counts on stderr."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    for finding in findings:
        line = Text(f"{finding.level.value:8}", style=_STYLES[finding.level])
        line.append(f"{finding.check:12}", style="bold")
        line.append(finding.found, style="default")
        console.print(line, soft_wrap=True)
        if finding.do is not None:
            console.print(Text(f"{'':20}{finding.do}", style="dim"), soft_wrap=True)
    counts = {level: sum(finding.level is level for finding in findings) for level in (Level.ERROR, Level.WARNING)}
    said = ", ".join(f"{count} {level.value}{'s' if count != 1 else ''}" for level, count in counts.items())
    click.echo(said, err=True)
