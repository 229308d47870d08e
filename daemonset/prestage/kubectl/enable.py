"""`kubectl prestage enable`: what to put into Git for a namespace."""

from __future__ import annotations

import json
import re

import click

from prestage.cacher.errors import Misconfigured
from prestage.kubectl import enabling

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@click.command()
@click.argument("namespace")
@click.option("--secret", "secrets", multiple=True, metavar="NAME", help="A Secret the broker may read: one that a ref needs.")
@click.option("--fetcher", is_flag=True, help="Workload identity: a service account that the broker may ask tokens of.")
@click.option("--control-namespace", default="prestage", show_default=True, help="Where the chart is installed.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def enable(namespace: str, secrets: tuple[str, ...], fetcher: bool, control_namespace: str, output: str) -> None:
    """Print what lets NAMESPACE use models: for Git, or for `| kubectl apply --server-side -f -`.

    That is the label on the namespace, and, for models that need a credential, a Role by which the broker reads those
    Secrets by name and no others. Talks to no cluster.
    """
    for name in (namespace, control_namespace):
        if not _LABEL.fullmatch(name):
            raise Misconfigured(f"{name!r} is no name of a namespace", hint="small letters, digits and -, at most 63")
    for name in secrets:
        if not _SUBDOMAIN.fullmatch(name):
            raise Misconfigured(f"{name!r} is no name of a Secret", hint="small letters, digits, - and .")
    made = enabling.objects(namespace, secrets=secrets, fetcher=fetcher, control_namespace=control_namespace)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": made}, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump_all(made, sort_keys=False), nl=False)
