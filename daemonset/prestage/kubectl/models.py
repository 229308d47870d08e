"""`kubectl prestage models`: which models a namespace has, and images of theirs, and on how many nodes they are warm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from prestage.api import conditions
from prestage.api.artifacts import Artifact
from prestage.api.models import StagedModel
from prestage.api.nodes import Action, NodeCache, State
from prestage.cacher.quantities import human_bytes
from prestage.control.demand.image_lines import platform_of
from prestage.images.names import SCHEME
from prestage.kube.client import KubeApi
from prestage.kube.ports import Selection
from prestage.kube.resources import ARTIFACTS, NODE_CACHES, STAGED_MODELS
from prestage.kubectl.asking import ask, cluster_options, kinds, namespace_options, show
from prestage.kubectl.images import how_far


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A StagedModel by its name, an annotation's ref by its alias, an image as pods name it.

    Counts are None where the caller may not read nodes."""

    namespace: str
    name: str
    kind: str
    source: str
    artifact: str | None
    size_bytes: int | None
    warm: int | None
    wanted: int | None
    ready: str
    message: str

    @property
    def size(self) -> str | None:
        """For people."""
        return None if self.size_bytes is None else human_bytes(self.size_bytes)

    @property
    def digest(self) -> str | None:
        """For people: enough of it to tell it from others."""
        return None if self.artifact is None else self.artifact[:19]


def rows(models: Iterable[StagedModel], artifacts: Iterable[Artifact], caches: Sequence[NodeCache] | None) -> list[ModelRow]:
    """StagedModels, then refs of annotations: by namespace and name."""
    made = [_of_model(one, caches) for one in models]
    for artifact in artifacts:
        uses = artifact.status.templates or () if artifact.status else ()
        named = {(use.alias, use.ref) for use in uses if not use.ref.startswith("ref:")}
        made += [_of_annotation(artifact, alias, ref, caches) for alias, ref in named]
    return sorted(made, key=lambda row: (row.namespace, row.kind, row.name, row.source, row.artifact or ""))


def _of_model(model: StagedModel, caches: Sequence[NodeCache] | None) -> ModelRow:
    status, spec = model.status, model.spec
    ready = conditions.find(status.conditions, "Ready") if status else None
    resolved = status.artifact if status else None
    warm, wanted = _counts(resolved.digest, caches) if resolved else (None, None)
    if status and status.nodes:
        warm, wanted = status.nodes.warm, status.nodes.wanted
    return ModelRow(
        namespace=model.metadata.namespace or "",
        name=model.metadata.name,
        kind="StagedModel",
        source=spec.source + (f"@{spec.revision}" if spec.revision else ""),
        artifact=resolved.digest if resolved else None,
        size_bytes=resolved.size if resolved else None,
        warm=warm,
        wanted=wanted,
        ready=ready.status.value if ready else "Unknown",
        message=ready.message if ready else "nobody has looked at it yet",
    )


def _of_annotation(artifact: Artifact, alias: str, ref: str, caches: Sequence[NodeCache] | None) -> ModelRow:
    warm, wanted = _counts(artifact.spec.digest, caches)
    platform = platform_of(alias)
    return ModelRow(
        namespace=artifact.metadata.namespace or "",
        name=alias if platform is None else ref.removeprefix(SCHEME),
        kind="Annotation" if platform is None else "Image",
        source=ref if platform is None else platform,
        artifact=artifact.spec.digest,
        size_bytes=artifact.spec.size,
        warm=warm,
        wanted=wanted,
        ready="-" if warm is None else str(bool(warm)),
        message=_coming(artifact.spec.digest, artifact.spec.size, caches or ()),
    )


def _coming(digest: str, size_bytes: int, caches: Iterable[NodeCache]) -> str:
    """How far it is, where it is on its way."""
    held = [one for cache in caches if cache.status for one in cache.status.artifacts or () if one.digest == digest]
    words = [how_far(one, size_bytes) for one in held if one.state in (State.STAGING, State.PENDING)]
    return ", ".join(f"{count} x {word}" if count > 1 else word for word, count in sorted(Counter(words).items())[:3])


def _counts(digest: str, caches: Sequence[NodeCache] | None) -> tuple[int | None, int | None]:
    """Nodes where it is warm, and where it is planned."""
    if caches is None:
        return None, None
    held = (one for cache in caches if cache.status for one in cache.status.artifacts or ())
    planned = (one for cache in caches for one in cache.spec.artifacts or ())
    warm = sum(one.digest == digest and one.state is State.WARM for one in held)
    return warm, sum(one.digest == digest and one.action is not Action.RELEASE for one in planned)


@click.command()
@namespace_options
@cluster_options
def models(namespace: str | None, all_namespaces: bool, kubeconfig: Path | None, context: str | None, as_json: bool) -> None:
    """The models of a namespace: StagedModels, and what annotations of its pods name."""

    async def question(api: KubeApi) -> list[ModelRow]:
        selection = Selection(namespace=None if all_namespaces else namespace or api.namespace)
        staged = await kinds(api, STAGED_MODELS, StagedModel, selection) or []
        artifacts = await kinds(api, ARTIFACTS, Artifact, selection) or []
        return rows(staged, artifacts, await kinds(api, NODE_CACHES, NodeCache))

    columns = ("namespace", "name", "kind", "source", "digest", "size", "warm", "wanted", "ready", "message")
    nothing = "no models here yet: annotate a pod template (model.prestage.dev/NAME), or make a StagedModel"
    show(ask(kubeconfig, context, question), columns, as_json=as_json, nothing=nothing)
