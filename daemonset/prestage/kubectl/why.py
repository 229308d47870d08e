"""`kubectl prestage why`: why a pod was cold, why a model is where it is or is not, what a node holds and why."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec

from prestage.cacher.errors import NotFound
from prestage.control.planning.decision_log import NAME, decisions_in
from prestage.kube.client import KubeApi
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import Api, Object, Resource, Selection
from prestage.kube.resources import (
    ARTIFACTS,
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    REPLICA_SETS,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STORE_POOLS,
)
from prestage.kubectl.asking import allowed, ask, cluster_options
from prestage.kubectl.finding import Finding, Level
from prestage.kubectl.holdings import Holdings, about_model, about_node, about_pod, about_start
from prestage.kubectl.reasons import Evidence, findings
from prestage.planner.decisions import Decision

_MARKS: Final = {Level.OK: " ", Level.WAIT: "…", Level.ACT: "!", Level.NOTE: "·"}
_KINDS: Final = {"pod": "pod", "pods": "pod", "po": "pod", "model": "model", "models": "model", "stagedmodel": "model"}
_KINDS_TOO: Final = {"stagedmodels": "model", "smodel": "model", "node": "node", "nodes": "node", "no": "node"}
_IMAGES: Final = {"image": "model", "images": "model"}


@dataclass(frozen=True, slots=True)
class Asked:
    """`kind` empty: a pod, else a model, else a node of that name."""

    kind: str
    name: str


def asked_for(text: str) -> Asked:
    """`pod/NAME`, `model/NAME`, `image/NAME`, `node/NAME` or NAME; a ref has slashes of its own."""
    kind, slash, name = text.partition("/")
    known = _KINDS | _KINDS_TOO | _IMAGES
    return Asked(known[kind.lower()], name) if slash and name and kind.lower() in known else Asked("", text)


@click.command()
@click.argument("what", metavar="POD|MODEL|IMAGE|NODE")
@click.option("-n", "--namespace", help="Of this namespace. Default: as kubectl.")
@click.option("--control-namespace", default="prestage", show_default=True, help="Where the chart is installed.")
@cluster_options
def why(
    what: str, namespace: str | None, control_namespace: str, kubeconfig: Path | None, context: str | None, as_json: bool
) -> None:
    """Why POD waits or was cold; why MODEL is still here, or went, and when it comes back; what NODE holds, and why.

    \b
    POD, pod/POD        annotations, artifact, gate, nodes, images, condition, events, why it was not there
    MODEL, model/MODEL  a StagedModel, an alias or a ref of an annotation, sha256:…; image/IMAGE as a pod names it
    NODE, node/NODE     all that it holds and lately held
    \b
    !  somebody has to do something     …  it passes by itself
    """

    async def question(api: KubeApi) -> list[Finding]:
        return await answer(api, asked_for(what), namespace or api.namespace, control_namespace, time.time())

    found = ask(kubeconfig, context, question)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    for one in found:
        click.echo(f"{_MARKS[one.level]} {one.about:<12} {one.says}")


async def answer(api: Api, asked: Asked, namespace: str, control_namespace: str, now: float) -> list[Finding]:
    """With what the caller may read.

    Raises:
        NotFound: there is nothing of that name.
    """
    decisions = await _decisions(api, control_namespace)
    if asked.kind in ("", "pod"):
        pod = await _one(api, PODS, asked.name, namespace=namespace)
        if pod is not None:
            seen = await evidence(api, namespace, pod)
            return [*findings(seen), *about_pod(seen, decisions, now)]
    if asked.kind in ("", "model"):
        found = about_model(asked.name, await holdings(api, namespace, decisions, now))
        if found is not None:
            return found
    if asked.kind in ("", "node"):
        cache = await _one(api, NODE_CACHES, asked.name)
        if cache is not None:
            node, pools = await _one(api, NODES, asked.name), await allowed(api, STORE_POOLS)
            start = about_start(node, pools or (), cache) if node is not None else []
            return [*start, *about_node(cache, await allowed(api, ARTIFACTS), decisions, now)]
    what = {"": "pod, model or node", "model": "model or image"}.get(asked.kind, asked.kind)
    where = "" if asked.kind == "node" else f" in namespace {namespace}"
    hint = "pod/NAME, model/NAME or node/NAME; -n NAMESPACE; kubectl prestage models lists models"
    raise NotFound(f"there is no {what} {asked.name!r}{where} that you may see", hint=hint)


async def evidence(api: Api, namespace: str, pod: Object) -> Evidence:
    """What the caller may read."""
    here = Selection(namespace)
    return Evidence(
        pod=pod,
        namespace=await _one(api, NAMESPACES, namespace),
        artifacts=await allowed(api, ARTIFACTS) or await allowed(api, ARTIFACTS, here),
        caches=await allowed(api, NODE_CACHES),
        replica_sets=await allowed(api, REPLICA_SETS, here),
        events=await allowed(api, EVENTS, here),
        nodes=await allowed(api, NODES),
    )


async def holdings(api: Api, namespace: str, decisions: Sequence[Decision] | None, now: float) -> Holdings:
    """What a namespace has, and where it is."""
    here = Selection(namespace)
    return Holdings(
        namespace=namespace,
        models=await allowed(api, STAGED_MODELS, here) or [],
        artifacts=await allowed(api, ARTIFACTS, here) or [],
        schedules=await allowed(api, STAGING_SCHEDULES, here) or [],
        caches=await allowed(api, NODE_CACHES),
        decisions=decisions,
        now=now,
    )


async def _decisions(api: Api, namespace: str) -> list[Decision] | None:
    """None: the caller may not read them, or no planner wrote any yet."""
    seen = await _one(api, CONFIG_MAPS, NAME, namespace=namespace)
    return None if seen is None else decisions_in(seen)


async def _one(api: Api, resource: Resource, name: str, *, namespace: str | None = None) -> Object | None:
    try:
        return await api.get(resource, name, namespace=namespace)
    except (Forbidden, Missing):
        return None
