"""What a publish asks for: the volume's attributes and what the kubelet adds, checked. Pure.

    model.prestage.dev/<alias>       a ref, as a pod's annotation has it
    artifact.prestage.dev/<alias>    what admission resolved it to
    prestage.dev/layout              Directory | HuggingFace | Flat
    prestage.dev/mount-path          where the pod sees it: for what its own socket answers

Attributes are the pod author's word, but for those that the kubelet overwrites (`csi.storage.k8s.io/pod.*`). A token counts
from `secrets` where the cluster hands it there: then one among the attributes is forged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from prestage.api.annotations import ARTIFACT_PREFIX, MODEL_PREFIX, PREFIX, Layout, Mistakes, parse
from prestage.api.brokerage import POD_AUDIENCE, PodIdentity
from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import Misconfigured

KUBELET = "csi.storage.k8s.io/"
TOKENS = KUBELET + "serviceAccount.tokens"
SETTINGS = (PREFIX + "layout", PREFIX + "mount-path")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model of the volume."""

    alias: str
    ref: str
    artifact: ArtifactId | None = None
    """As admission wrote it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A publish, read."""

    pod: PodIdentity
    models: tuple[Wanted, ...]
    layout: Layout
    mount_path: str
    token: str | None
    """The pod's own, for the broker's eyes; None: the cluster gave none."""

    def __repr__(self) -> str:
        return f"Asked({self.pod!r}, {self.models!r}, {self.layout})"


def asked(context: Mapping[str, str], secrets: Mapping[str, str]) -> Asked:
    """Read a publish.

    Raises:
        Misconfigured: everything that is wrong with it.
    """
    ours = {name: value for name, value in context.items() if not name.startswith(KUBELET)}
    artifacts = {name: ours.pop(name) for name in list(ours) if name.startswith(ARTIFACT_PREFIX)}
    if unknown := sorted(name for name in ours if not name.startswith(MODEL_PREFIX) and name not in SETTINGS):
        raise Misconfigured(
            f"the volume has an attribute {unknown[0][:80]!r}, which means nothing here",
            hint=f"write {MODEL_PREFIX}NAME, {', '.join(SETTINGS)}",
        )
    try:
        request = parse(ours)
    except Mistakes as exc:
        raise Misconfigured("; ".join(map(str, exc.mistakes)), hint="these are attributes of the pod's volume") from exc
    if not request.models:
        raise Misconfigured("the volume names no model", hint=f"write an attribute {MODEL_PREFIX}NAME: hf://org/name")
    resolved = {name.removeprefix(ARTIFACT_PREFIX): artifact_id(value) for name, value in artifacts.items()}
    if strange := sorted(resolved.keys() - {model.alias for model in request.models}):
        raise Misconfigured(
            f"{ARTIFACT_PREFIX}{strange[0]} goes with no model", hint=f"write {MODEL_PREFIX}{strange[0]} too, or neither"
        )
    models = tuple(Wanted(model.alias, model.text, resolved.get(model.alias)) for model in request.models)
    return Asked(_pod(context), models, request.layout, request.mount_path, _token(context, secrets))


def _pod(context: Mapping[str, str]) -> PodIdentity:
    def said(name: str) -> str:
        if not (value := context.get(KUBELET + name)):
            raise Misconfigured(f"the kubelet does not say {name}", hint="the CSIDriver object needs podInfoOnMount: true")
        return value

    if context.get(KUBELET + "ephemeral", "true") != "true":
        raise Misconfigured("this is no inline volume", hint="write the volume into the pod, as csi: {driver: prestage.dev}")
    return PodIdentity(
        namespace=said("pod.namespace"),
        name=said("pod.name"),
        uid=said("pod.uid"),
        service_account=said("serviceAccount.name"),
    )


def _token(context: Mapping[str, str], secrets: Mapping[str, str]) -> str | None:
    text = secrets.get(TOKENS) or context.get(TOKENS)
    if not text:
        return None
    try:
        token = json.loads(text)[POD_AUDIENCE]["token"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Misconfigured(
            f"there is no token for the audience {POD_AUDIENCE}",
            hint=f"the CSIDriver object needs tokenRequests: [{{audience: {POD_AUDIENCE}}}]",
        ) from exc
    return token if isinstance(token, str) else None
