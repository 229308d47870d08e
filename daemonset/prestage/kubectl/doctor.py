"""`kubectl prestage doctor`: what stands in the way, before and after the chart is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from prestage.cacher.cli.doctor import show
from prestage.cacher.doctor.findings import exit_code
from prestage.kube.client import KubeApi
from prestage.kubectl.asking import ask, cluster_options
from prestage.kubectl.cluster import ClusterFacts, look
from prestage.kubectl.judgement import judge


@click.command()
@click.option("--control-namespace", default="prestage", show_default=True, help="Where the chart is, or is to be, installed.")
@cluster_options
def doctor(control_namespace: str, kubeconfig: Path | None, context: str | None, as_json: bool) -> None:
    """Look at versions, nodes, kubelets and what is installed, and say what to do.

    Changes nothing. The exit code is 0 without errors, else that of the first error's class.
    """

    async def question(api: KubeApi) -> ClusterFacts:
        return await look(api, control_namespace)

    findings = judge(ask(kubeconfig, context, question))
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        show(findings)
    sys.exit(exit_code(findings))
