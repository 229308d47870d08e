"""What one pod, or the template of a workload, says about models. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prestage.api.annotations import DRIVER, MODEL_PREFIX, WARM_GATE, Mistakes, parse
from prestage.control.demand.feasibility import Needs, needs_of, takes_room
from prestage.control.demand.image_lines import PulledImages, pulled_images
from prestage.kube.ports import Object, metadata_of, name_of, namespace_of, uid_of


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model by the name it has in the pod. `ref` as the user wrote it."""

    alias: str
    ref: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod as demand sees it. `takes_room_on`: the node whose room it holds."""

    uid: str
    namespace: str
    name: str
    models: tuple[WantedModel, ...]
    needs: Needs
    """Of any node: the one it is bound to is no need."""
    takes_room_on: str | None = None
    is_running: bool = False
    is_going: bool = False
    foreign_gates: frozenset[str] = frozenset()
    """Others' scheduling gates: until they are gone it will not run, whatever we do."""
    is_gated: bool = False
    """By ours."""
    priority: int = 0
    service_account: str = "default"
    credentials: str | None = None
    mistakes: tuple[str, ...] = ()
    images: PulledImages = PulledImages()  # noqa: RUF009  frozen

    @property
    def is_bound(self) -> bool:
        """On its node, and needs its models there: one that goes before it began does not."""
        return self.takes_room_on is not None and (self.is_running or not self.is_going)

    @property
    def is_waiting(self) -> bool:
        """It would run if it had a node."""
        return self.takes_room_on is None and not self.is_going and not self.foreign_gates


def facts_of(pod: Object) -> PodFacts | None:
    """None: it has ended. A template (`spec.template` of a workload) is read as a pod that waits."""
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    models, credentials, mistakes = _models(pod, spec)
    gates = {str(_mapping(one).get("name")) for one in _list(spec.get("schedulingGates"))}
    priority, needs = spec.get("priority"), needs_of(pod)
    return PodFacts(
        uid_of(pod),
        namespace_of(pod) or "",
        name_of(pod),
        models,
        needs.anywhere(),
        takes_room(pod),
        is_running=status.get("phase") == "Running",
        is_going="deletionTimestamp" in metadata_of(pod),
        foreign_gates=frozenset(gates - {WARM_GATE}),
        is_gated=WARM_GATE in gates,
        priority=priority if isinstance(priority, int) else 0,
        service_account=str(spec.get("serviceAccountName") or "default"),
        credentials=credentials,
        mistakes=mistakes,
        images=pulled_images(spec) if models else PulledImages(),
    )


def _models(pod: Object, spec: Mapping[str, object]) -> tuple[tuple[WantedModel, ...], str | None, tuple[str, ...]]:
    """By annotations, and by volumes that were written by hand."""
    said = {str(key): str(value) for key, value in _mapping(metadata_of(pod).get("annotations")).items()}
    found: dict[str, str] = {}
    credentials, mistakes = None, tuple[str, ...]()
    try:
        request = parse(said)
    except Mistakes as exc:
        mistakes = tuple(map(str, exc.mistakes))
    else:
        found = {model.alias: model.text for model in request.models}
        credentials = request.credentials
    for volume in _list(spec.get("volumes")):
        csi = _mapping(_mapping(volume).get("csi"))
        if csi.get("driver") != DRIVER:
            continue
        for key, value in _mapping(csi.get("volumeAttributes")).items():
            if str(key).startswith(MODEL_PREFIX):
                found.setdefault(str(key).removeprefix(MODEL_PREFIX), str(value))
    return tuple(WantedModel(alias, ref) for alias, ref in sorted(found.items())), credentials, mistakes


def _mapping(given: object) -> Mapping[str, object]:
    return given if type(given) is dict or isinstance(given, Mapping) else {}


def _list(given: object) -> list[object]:
    return given if isinstance(given, list) else []
