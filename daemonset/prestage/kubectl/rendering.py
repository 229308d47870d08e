"""What admission would make of the pods of a manifest, without any cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.annotations import MODEL_PREFIX, Layout, Mistakes
from prestage.control.admission.mistakes import examined, models_of
from prestage.control.admission.mutation import LAYOUT_ATTRIBUTE, mutated
from prestage.control.podspec import attributes_of, containers_of, entries, is_ours, part, volumes_of
from prestage.kube.ports import Object, metadata_of, name_of

_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"), ("spec", "template")),
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Of one workload. `paths`: container to where each model is; `env`: container to what was added. `pod` as it would start."""

    source: str
    paths: Mapping[str, Mapping[str, str]]
    env: Mapping[str, Mapping[str, str]]
    pod: Object
    mistakes: tuple[str, ...] = ()

    @property
    def summary(self) -> Iterator[str]:
        """For people, a line each."""
        yield self.source
        for said in self.mistakes:
            yield f"  refused: {said}"
        for container, models in self.paths.items():
            for path, ref in models.items():
                yield f"  {container}: {path} is {ref}"
        for container, added in self.env.items():
            for name, value in added.items():
                yield f"  {container}: {name}={value}"


def rendered(document: Object) -> Iterator[Rendered]:
    """Of every workload in it; of anything else nothing."""
    if document.get("kind") == "List":
        for one in entries(document, "items"):
            yield from rendered(one)
        return
    kind = str(document.get("kind"))
    if kind in _TEMPLATES and (template := part(document, *_TEMPLATES[kind])):
        yield _of(f"{kind}/{name_of(document)}", template, metadata_of(document))


def _of(source: str, template: Object, head: Object) -> Rendered:
    named = {key: head[key] for key in ("name", "namespace") if key in head}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**named, **metadata_of(template)}, "spec": part(template, "spec")}
    try:
        request = examined(pod)
    except Mistakes as exc:
        return Rendered(source, {}, {}, pod, tuple(map(str, exc.mistakes)))
    after = mutated(pod, request)
    if not models_of(pod, request):
        return Rendered(source, {}, {}, after)
    return Rendered(source, dict(_paths(after)), dict(_added(pod, after)), after)


def _paths(pod: Object) -> Iterator[tuple[str, dict[str, str]]]:
    ours = {str(volume["name"]): volume for volume in volumes_of(pod) if is_ours(volume)}
    for _, _, container in containers_of(pod):
        found = dict[str, str]()
        for mount in entries(container, "volumeMounts"):
            volume, path = ours.get(str(mount.get("name"))), str(mount.get("mountPath", "")).rstrip("/")
            for key, ref in attributes_of(volume).items() if volume is not None else ():
                if key.startswith(MODEL_PREFIX):
                    found[_place(path, key.removeprefix(MODEL_PREFIX), attributes_of(volume or {}))] = ref
        if found:
            yield str(container.get("name")), found


def _place(path: str, alias: str, attributes: Mapping[str, str]) -> str:
    return path if attributes.get(LAYOUT_ATTRIBUTE) == Layout.FLAT else f"{path}/{alias}"


def _added(before: Object, after: Object) -> Iterator[tuple[str, dict[str, str]]]:
    old = {room + str(name): _env(container) for room, _, container in containers_of(before) if (name := container.get("name"))}
    for room, _, container in containers_of(after):
        had = old.get(room + str(container.get("name")), {})
        fresh = {name: value for name, value in _env(container).items() if name not in had}
        if fresh:
            yield str(container.get("name")), fresh


def _env(container: Object) -> dict[str, str]:
    return {str(one.get("name")): str(one.get("value", "")) for one in entries(container, "env")}
