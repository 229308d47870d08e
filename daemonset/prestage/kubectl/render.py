"""`kubectl prestage render`: what admission would make of a manifest. Talks to no cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from prestage.cacher.errors import Misconfigured


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="A manifest, or - for stdin.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(files: tuple[str, ...], output: str) -> None:
    """Print the pods of manifests as admission would change them, with the path of each model and the environment.

    \b
    kubectl prestage render -f deploy.yaml
    The artifact, the gate and the preference take a cluster: they are not in it. Mistakes are told as admission tells them.
    """
    import yaml

    from prestage.kubectl.rendering import Rendered, rendered

    found = list[Rendered]()
    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            documents = [one for one in yaml.safe_load_all(text) if isinstance(one, dict)]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise Misconfigured(f"{name}: {' '.join(str(exc).split())}", hint="a manifest as kubectl apply -f takes it") from exc
        found += [one for document in documents for one in rendered(document)]
    if not found:
        raise Misconfigured(f"{', '.join(files)}: no pod and no workload in it", hint="a Deployment, StatefulSet, Job or Pod")
    if output == "json":
        fields = ("source", "paths", "env", "mistakes", "pod")
        click.echo(json.dumps([{name: getattr(one, name) for name in fields} for one in found], indent=2))
    else:
        for one in found:
            click.echo("---\n" + "".join(f"# {line}\n" for line in one.summary), nl=False)
            click.echo(yaml.safe_dump(one.pod, sort_keys=False, width=10_000), nl=False)
    if wrong := [one for one in found if one.mistakes]:
        raise Misconfigured(f"{wrong[0].source} would be refused: {wrong[0].mistakes[0]}")
