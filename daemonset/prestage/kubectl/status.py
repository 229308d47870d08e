"""`kubectl prestage status`: pods with models and where they stand, and whether our own parts are up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import click

from prestage.api.annotations import DRIVER, WARM_CONDITION, WARM_GATE
from prestage.kube.client import KubeApi
from prestage.kube.listing import all_of
from prestage.kube.ports import Object, Selection, metadata_of, name_of, namespace_of
from prestage.kube.resources import DAEMON_SETS, DEPLOYMENTS, PODS
from prestage.kubectl.asking import allowed, ask, cluster_options, namespace_options, show

_PARTS = "app.kubernetes.io/part-of=prestage"
_MODEL = re.compile(r"model\.prestage\.dev/([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class PodRow:
    """One pod with models."""

    namespace: str
    pod: str
    node: str
    phase: str
    models: str
    warm: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Part:
    """One Deployment or DaemonSet of ours."""

    name: str
    ready: int
    wanted: int

    @property
    def is_up(self) -> bool:
        """Whether it does its work: every node's part, or one of a Deployment's."""
        return self.ready >= self.wanted if self.name.startswith("prestage-node") else self.ready > 0


def pod_rows(pods: Iterable[Object]) -> list[PodRow]:
    """Pods that ask for models, the waiting ones first."""
    found = [row for pod in pods if (row := _row(pod)) is not None]
    return sorted(found, key=lambda row: (row.warm == "True", row.namespace, row.pod))


def parts(deployments: Sequence[Object], daemons: Sequence[Object]) -> list[Part]:
    """Ours, by name."""
    made = [Part(name_of(one), _number(one, "availableReplicas"), _replicas(one)) for one in deployments]
    made += [Part(name_of(one), _number(one, "numberReady"), _number(one, "desiredNumberScheduled")) for one in daemons]
    return sorted(made, key=lambda part: part.name)


def _row(pod: Object) -> PodRow | None:
    spec, status = _map(pod.get("spec")), _map(pod.get("status"))
    named = set(_MODEL.findall(" ".join(_map(metadata_of(pod).get("annotations")))))
    for volume in cast("list[Object]", spec.get("volumes") or []):
        csi = _map(volume.get("csi"))
        if csi.get("driver") == DRIVER:
            named |= set(_MODEL.findall(" ".join(_map(csi.get("volumeAttributes")))))
    if not named:
        return None
    conditions = cast("list[Object]", status.get("conditions") or [])
    warm: Object = next((one for one in conditions if one.get("type") == WARM_CONDITION), {})
    gates = [one.get("name") for one in cast("list[Object]", spec.get("schedulingGates") or [])]
    return PodRow(
        namespace=namespace_of(pod) or "",
        pod=name_of(pod),
        node=str(spec.get("nodeName") or ("gated" if WARM_GATE in gates else "")),
        phase=str(status.get("phase", "")),
        models=",".join(sorted(named)),
        warm=str(warm.get("status", "Unknown")),
        reason=str(warm.get("reason", "")),
        message=str(warm.get("message", "")),
    )


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _number(one: Object, name: str) -> int:
    value = _map(one.get("status")).get(name)
    return value if isinstance(value, int) else 0


def _replicas(one: Object) -> int:
    value = _map(one.get("spec")).get("replicas")
    return value if isinstance(value, int) else 1


@click.command()
@namespace_options
@click.option("--control-namespace", default="prestage", show_default=True, help="Where the chart is installed.")
@cluster_options
def status(
    namespace: str | None,
    all_namespaces: bool,
    control_namespace: str,
    kubeconfig: Path | None,
    context: str | None,
    as_json: bool,
) -> None:
    """Pods with models: which are warm, which wait, for what. And whether every part of ours is up, where you may see that."""

    async def question(api: KubeApi) -> tuple[list[PodRow], list[Part] | None]:
        ours = Selection(namespace=control_namespace, labels=_PARTS)
        deployments, daemons = await allowed(api, DEPLOYMENTS, ours), await allowed(api, DAEMON_SETS, ours)
        seen = None if deployments is None or daemons is None else parts(deployments, daemons)
        pods = await all_of(api, PODS, Selection(namespace=None if all_namespaces else namespace or api.namespace))
        return pod_rows(pods), seen

    rows, ours = ask(kubeconfig, context, question)
    if as_json:
        said = [asdict(part) for part in ours] if ours is not None else None
        click.echo(json.dumps({"parts": said, "pods": [asdict(row) for row in rows]}, indent=2))
        return
    if ours is not None:
        told = ", ".join(f"{part.name} {part.ready}/{part.wanted}{'' if part.is_up else ' (!)'}" for part in ours)
        click.echo(told or f"nothing of ours runs in namespace {control_namespace}: kubectl prestage doctor", err=True)
    columns = ("namespace", "pod", "node", "phase", "models", "warm", "reason", "message")
    show(rows, columns, as_json=False, nothing="no pod here asks for a model")
