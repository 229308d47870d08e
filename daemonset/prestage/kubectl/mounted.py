"""`kubectl prestage mounted`: the running pods that have models mounted; what stands in the way of an uninstall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click

from prestage.api.annotations import DRIVER
from prestage.cacher.errors import Busy
from prestage.kube.client import KubeApi
from prestage.kube.listing import all_of
from prestage.kube.ports import Object, name_of, namespace_of
from prestage.kube.resources import PODS
from prestage.kubectl.asking import ask, cluster_options, show

_NAMED = 5


@dataclass(frozen=True, slots=True)
class MountedPod:
    """A pod on a node with a volume of ours."""

    namespace: str
    pod: str
    node: str


def mounted_pods(pods: Iterable[Object]) -> list[MountedPod]:
    """Those whose volumes a kubelet has, or is about to: bound, and not over."""
    found = []
    for pod in pods:
        spec, status = (cast("Mapping[str, object]", pod.get(part) or {}) for part in ("spec", "status"))
        volumes = cast("list[Mapping[str, Mapping[str, object]]]", spec.get("volumes") or [])
        ours = any((one.get("csi") or {}).get("driver") == DRIVER for one in volumes)
        if ours and spec.get("nodeName") and status.get("phase") not in ("Succeeded", "Failed"):
            found.append(MountedPod(namespace_of(pod) or "", name_of(pod), str(spec["nodeName"])))
    return sorted(found, key=lambda one: (one.namespace, one.pod))


@click.command()
@click.option("--refuse", is_flag=True, help="Fail (exit code 6) when there is one: the hook of an uninstall.")
@cluster_options
def mounted(refuse: bool, kubeconfig: Path | None, context: str | None, as_json: bool) -> None:
    """Running pods that have models mounted, in every namespace. Without our driver they could not be stopped cleanly."""

    async def question(api: KubeApi) -> list[MountedPod]:
        return mounted_pods(await all_of(api, PODS))

    found = ask(kubeconfig, context, question)
    if refuse and found:
        named = ", ".join(f"{one.namespace}/{one.pod}" for one in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        hint = "end them first; helm uninstall --no-hooks goes on without"
        raise Busy(f"{len(found)} running pods have models mounted: {named}{more}", hint=hint)
    show(found, ("namespace", "pod", "node"), as_json=as_json, nothing="no running pod has a model mounted")
