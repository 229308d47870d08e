"""A pod with what its annotations ask for. Pure; doing it twice does what doing it once does.

    volume   prestage-models      CSI, inline, read-only; the refs, and the artifacts where they are known, in its attributes
    mounts   <mount path>         into the containers that are meant (podspec.default_containers)
    env      HF_*                 layout HuggingFace, each only where the container does not set it
    gate     prestage.dev/warm    where it was decided (gates.decision)
    affinity prestage.dev/place   preferred, where nodes are warm (gates.preference)

What is there already is left as it is: another webhook may call us again, GitOps compares templates only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.annotations import ARTIFACT_PREFIX, DRIVER, MODEL_PREFIX, PREFIX, WARM_GATE, Layout, Request, WaitFor
from prestage.control.gates.preference import with_preference
from prestage.control.podspec import attributes_of, containers_of, default_containers, gates_of, is_ours
from prestage.kube.ports import Object

VOLUME: Final = "prestage-models"
LAYOUT_ATTRIBUTE: Final = PREFIX + "layout"
HUB_DIRECTORY: Final = ".hf"
MODULES_VOLUME: Final = "prestage-hf-modules"
MODULES_PATH: Final = "/run/prestage-hf-modules"
"""Code of a model (`trust_remote_code`) is copied there before it is imported; an emptyDir, for a root may be read-only."""

Tree = dict[str, object]


@dataclass(frozen=True, slots=True)
class Additions:
    """What needs state. `artifacts`: by alias and ref. `places`: of warm nodes; None: leave preferences as they are."""

    artifacts: Mapping[tuple[str, str], str] = field(default_factory=dict)
    gate: bool = False
    places: Sequence[str] | None = None


def mutated(pod: Object, request: Request, additions: Additions | None = None) -> Object:
    """`pod` as it should be. It must be free of mistakes (mistakes.examined)."""
    more = additions or Additions()
    made: Tree = copy.deepcopy(dict(pod))
    spec = made.get("spec")
    if not isinstance(spec, dict):
        return pod
    if request.models and request.wait is not WaitFor.NONE:
        _add_volume(spec, request)
        wanted = request.containers or default_containers(pod)
        for room, number, container in containers_of(pod):
            if container.get("name") in wanted:
                _add_to_container(spec, spec[room][number], request)
    _name_artifacts(spec, more.artifacts)
    if more.gate and WARM_GATE not in gates_of(pod):
        _list(spec, "schedulingGates").append({"name": WARM_GATE})
    return made if more.places is None else with_preference(made, more.places)


def attributes(request: Request) -> dict[str, str]:
    """Of the volume."""
    refs = {MODEL_PREFIX + model.alias: model.text for model in request.models}
    return {**refs, LAYOUT_ATTRIBUTE: str(request.layout)}


def hub_environment(request: Request) -> dict[str, str]:
    """What Hugging Face's libraries need to find the files and to ask nobody."""
    hub = f"{request.mount_path}/{HUB_DIRECTORY}"
    return {"HF_HUB_CACHE": hub, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": MODULES_PATH}


def _list(parent: Tree, key: str) -> list[object]:
    found = parent.get(key)
    if not isinstance(found, list):
        found = parent[key] = []
    return found


def _add_volume(spec: Tree, request: Request) -> None:
    volumes = _list(spec, "volumes")
    for volume in volumes:
        if isinstance(volume, dict) and volume.get("name") == VOLUME:
            volume["csi"]["volumeAttributes"] = {**attributes(request), **attributes_of(volume)}
            return
    csi = {"driver": DRIVER, "readOnly": True, "volumeAttributes": attributes(request)}
    volumes.append({"name": VOLUME, "csi": csi})


def _add_to_container(spec: Tree, container: Tree, request: Request) -> None:
    _mount(container, VOLUME, request.mount_path, read_only=True)
    if request.layout is not Layout.HUGGING_FACE:
        return
    env = container.get("env")
    there = {one.get("name"): one.get("value") for one in env if isinstance(one, dict)} if isinstance(env, list) else {}
    for name, value in hub_environment(request).items():
        if name not in there:
            _list(container, "env").append({"name": name, "value": value})
    if there.get("HF_MODULES_CACHE", MODULES_PATH) == MODULES_PATH:
        _mount(container, MODULES_VOLUME, MODULES_PATH, read_only=False)
        volumes = _list(spec, "volumes")
        if not any(isinstance(one, dict) and one.get("name") == MODULES_VOLUME for one in volumes):
            volumes.append({"name": MODULES_VOLUME, "emptyDir": {}})


def _mount(container: Tree, volume: str, path: str, *, read_only: bool) -> None:
    mounts = _list(container, "volumeMounts")
    if any(isinstance(one, dict) and one.get("name") == volume and one.get("mountPath") == path for one in mounts):
        return
    mounts.append({"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})})


def _name_artifacts(spec: Tree, artifacts: Mapping[tuple[str, str], str]) -> None:
    """In every volume of ours: also in those that were written by hand."""
    if not artifacts:
        return
    for volume in _list(spec, "volumes"):
        if not isinstance(volume, dict) or not is_ours(volume):
            continue
        given = attributes_of(volume)
        for key, text in list(given.items()):
            alias = key.removeprefix(MODEL_PREFIX)
            if key.startswith(MODEL_PREFIX) and (digest := artifacts.get((alias, text))):
                given.setdefault(ARTIFACT_PREFIX + alias, digest)
        volume["csi"]["volumeAttributes"] = given
