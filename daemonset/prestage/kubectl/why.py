"""`kubectl prestage why`: why a pod is not warm yet, or why it is."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from prestage.kube.client import KubeApi
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import Object, Resource, Selection
from prestage.kube.resources import ARTIFACTS, EVENTS, NAMESPACES, NODE_CACHES, PODS, REPLICA_SETS
from prestage.kubectl.asking import allowed, ask, cluster_options
from prestage.kubectl.reasons import Evidence, Finding, Level, findings

_MARKS = {Level.OK: " ", Level.WAIT: "…", Level.ACT: "!", Level.NOTE: "·"}


@click.command()
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of this namespace.")
@cluster_options
def why(pod: str, namespace: str, kubeconfig: Path | None, context: str | None, as_json: bool) -> None:
    """Say why POD waits for its models, or that it does not: annotations, artifact, gate, nodes, condition, events.

    \b
    !  somebody has to do something     …  it passes by itself
    """

    async def question(api: KubeApi) -> list[Finding]:
        return findings(await evidence(api, namespace, pod.removeprefix("pod/").removeprefix("pods/")))

    found = ask(kubeconfig, context, question)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    for one in found:
        click.echo(f"{_MARKS[one.level]} {one.about:<12} {one.says}")


async def evidence(api: KubeApi, namespace: str, name: str) -> Evidence:
    """What the caller may read. Raises Missing where there is no such pod."""
    seen = await api.get(PODS, name, namespace=namespace)
    here = Selection(namespace)
    return Evidence(
        pod=seen,
        namespace=await _one(api, NAMESPACES, namespace),
        artifacts=await allowed(api, ARTIFACTS) or await allowed(api, ARTIFACTS, here),
        caches=await allowed(api, NODE_CACHES),
        replica_sets=await allowed(api, REPLICA_SETS, here),
        events=await allowed(api, EVENTS, here),
    )


async def _one(api: KubeApi, resource: Resource, name: str) -> Object | None:
    try:
        return await api.get(resource, name)
    except (Forbidden, Missing):
        return None
