"""What is wrong with a pod that asks for models: beyond its annotations, which api.annotations answers for. Pure.

Each mistake is told with where it is, what is wrong and what to write; all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prestage.api.annotations import (
    ARTIFACT_PREFIX,
    DRIVER,
    MODEL_PREFIX,
    PREFIX,
    Layout,
    Mistake,
    Mistakes,
    ModelRequest,
    Request,
    WaitFor,
    is_ours,
    parse,
)
from prestage.control import podspec
from prestage.control.admission.mutation import LAYOUT_ATTRIBUTE, MODULES_PATH, MODULES_VOLUME, VOLUME
from prestage.control.podspec import attributes_of, containers_of, default_containers, entries, part, volumes_of
from prestage.kube.ports import Object

_HAND_WRITTEN = f'{MODEL_PREFIX}llama: "ref:llama"'
_LINUX = 'nodeSelector: {kubernetes.io/os: "linux"}'
_OS_LABEL = "kubernetes.io/os"

May = Callable[[str], bool]
"""Whether this namespace may name an artifact by its digest: it resolved it, or its template's record says so."""


def examined(pod: Object, may_name: May = lambda digest: True) -> Request:
    """What the pod asks for.

    Raises:
        Mistakes: all that is wrong with annotations and spec.
    """
    found: list[Mistake] = []
    request = Request()
    try:
        request = parse(podspec.annotations_of(pod))
    except Mistakes as exc:
        found += exc.mistakes
    found += _by_hand(pod, request, may_name)
    if request.models:
        found += _about_the_pod(pod, request)
    if found:
        raise Mistakes(tuple(dict.fromkeys(found)))
    return request


def models_of(pod: Object, request: Request) -> tuple[ModelRequest, ...]:
    """All: of annotations, and of volumes that were written by hand."""
    models = {(one.alias, one.text): one for one in request.models}
    for volume in volumes_of(pod):
        if podspec.is_ours(volume):
            named = {key: text for key, text in attributes_of(volume).items() if key.startswith(MODEL_PREFIX)}
            try:
                models.update({(one.alias, one.text): one for one in parse(named).models})
            except Mistakes:
                continue
    return tuple(models.values())


def _about_the_pod(pod: Object, request: Request) -> Iterator[Mistake]:
    first = MODEL_PREFIX + request.models[0].alias
    if request.wait is WaitFor.NONE:
        return
    if where := _windows(pod):
        yield Mistake(first, f"{where} sends this pod to Windows nodes, where nothing of ours runs", _LINUX)
    names = [str(one.get("name", "")) for _, _, one in containers_of(pod)]
    for name in request.containers:
        if name not in names:
            said = f"there is no container {name!r}; there are {', '.join(names)}"
            yield Mistake(PREFIX + "containers", said, f"{PREFIX}containers: {names[0] if names else 'server'}")
    for volume in volumes_of(pod):
        taken = volume.get("name")
        if taken == VOLUME and not podspec.is_ours(volume):
            yield Mistake(
                first, f"the volume name {VOLUME} is ours, and taken by another volume", "volumes: [{name: my-models, …}]"
            )
        if taken == MODULES_VOLUME and request.layout is Layout.HUGGING_FACE and "emptyDir" not in volume:
            yield Mistake(
                first, f"the volume name {taken} is ours, and taken by another volume", "volumes: [{name: my-modules, …}]"
            )
    wanted = request.containers or default_containers(pod)
    for _, _, container in containers_of(pod):
        if container.get("name") in wanted:
            yield from _paths_taken(container, request)


def _paths_taken(container: Object, request: Request) -> Iterator[Mistake]:
    ours = {VOLUME: request.mount_path}
    if request.layout is Layout.HUGGING_FACE:
        ours[MODULES_VOLUME] = MODULES_PATH
    for mount in entries(container, "volumeMounts"):
        path = str(mount.get("mountPath", "")).rstrip("/")
        for volume, mine in ours.items():
            inside = path == mine or path.startswith(mine + "/")
            if inside and not (mount.get("name") == volume and path == mine):
                what = f"volume {mount.get('name')!r} at {path}"
                said = f"container {container.get('name')!r} mounts {what}, where the models go"
                yield Mistake(PREFIX + "mount-path", said, f"{PREFIX}mount-path: /srv/models")


def _windows(pod: Object) -> str | None:
    spec = part(pod, "spec")
    if part(spec, "os").get("name") == "windows":
        return "spec.os.name"
    if part(spec, "nodeSelector").get(_OS_LABEL) == "windows":
        return f"nodeSelector {_OS_LABEL}"
    required = part(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    terms = entries(required, "nodeSelectorTerms")
    only = [any(_means_windows(one) for one in entries(term, "matchExpressions")) for term in terms]
    return "nodeAffinity" if only and all(only) else None


def _means_windows(expression: Object) -> bool:
    return (expression.get("key"), expression.get("operator"), expression.get("values")) == (_OS_LABEL, "In", ["windows"])


def _by_hand(pod: Object, request: Request, may_name: May) -> Iterator[Mistake]:
    """Volumes of our driver: those that we add, and those that somebody wrote."""
    named: dict[str, str] = {model.alias: model.text for model in request.models}
    for volume in volumes_of(pod):
        if not podspec.is_ours(volume):
            continue
        where = f"volume {volume.get('name')}"
        given = attributes_of(volume)
        if part(volume, "csi").get("readOnly") is not True:
            yield Mistake(where, "models are mounted read-only", f"csi: {{driver: {DRIVER}, readOnly: true, …}}")
        yield from _attributes(where, given, may_name)
        if volume.get("name") == VOLUME and request.models and given.get(LAYOUT_ATTRIBUTE, request.layout) != request.layout:
            yield Mistake(PREFIX + "layout", f"{where} says {given[LAYOUT_ATTRIBUTE]}", f"{PREFIX}layout: {request.layout}")
        for alias, text in _aliases(given).items():
            if named.setdefault(alias, text) != text:
                yield Mistake(
                    MODEL_PREFIX + alias, f"two models with one name: {named[alias]} and {text}", f"{MODEL_PREFIX}{alias}-2"
                )


def _aliases(given: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(MODEL_PREFIX): text for key, text in given.items() if key.startswith(MODEL_PREFIX)}


def _attributes(where: str, given: Mapping[str, str], may_name: May) -> Iterator[Mistake]:
    aliases = _aliases(given)
    if not aliases:
        yield Mistake(where, "no model is named in its volumeAttributes", _HAND_WRITTEN)
    for key, text in given.items():
        if key.startswith(ARTIFACT_PREFIX):
            if key.removeprefix(ARTIFACT_PREFIX) not in aliases:
                yield Mistake(f"{where}, {key}", "there is no model of that name beside it", _HAND_WRITTEN)
            elif not may_name(text):
                yield Mistake(f"{where}, {key}", "only admission writes it: this namespace has no such artifact", _HAND_WRITTEN)
        elif key.startswith("csi.storage.k8s.io/"):
            yield Mistake(f"{where}, {key}", "only the kubelet writes it: remove it", _HAND_WRITTEN)
        elif not is_ours(key) or (key.startswith(PREFIX) and key != LAYOUT_ATTRIBUTE):
            yield Mistake(f"{where}, {key}", "there is no such attribute", _HAND_WRITTEN)
    ours = {key: text for key, text in given.items() if key == LAYOUT_ATTRIBUTE or key.startswith(MODEL_PREFIX)}
    if aliases:
        try:
            parse(ours)
        except Mistakes as exc:
            for one in exc.mistakes:
                yield Mistake(f"{where}, {one.annotation}", one.wrong, one.example)
