"""What a pod asks for and needs of a node: read once for each version of it, for thousands are looked at again and again."""

from __future__ import annotations

from dataclasses import dataclass

from prestage.api.annotations import Mistakes, ModelRequest, Request, WaitFor, parse
from prestage.control.admission.mistakes import examined, models_of
from prestage.control.demand.feasibility import Needs, needs_of
from prestage.control.demand.image_lines import PulledImages, pulled_images
from prestage.control.podspec import annotations_of, part
from prestage.kube.ports import Object, metadata_of, uid_of, version_of


@dataclass(frozen=True, slots=True)
class Wish:
    """`request`: where annotations are wrong (admission was away), nothing that would keep a gate. `mistakes`: of all of it."""

    request: Request
    models: tuple[ModelRequest, ...]
    needs: Needs
    mistakes: Mistakes | None = None
    images: PulledImages = PulledImages()  # noqa: RUF009  frozen


class Wishes:
    """Of pods that are stored; one that is being created is read anew each time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, object, Wish]] = {}

    def of(self, pod: Object) -> Wish:
        """As it is now."""
        uid, version = uid_of(pod), str(version_of(pod))
        if not uid or not version:
            return _read(pod)
        known = self._known.get(uid)
        if known is None or known[0] != version:
            asked = part(metadata_of(pod), "annotations"), part(pod, "spec")
            same = known is not None and known[1] == asked  # most of what changes is its status
            known = self._known[uid] = version, asked, known[2] if known is not None and same else _read(pod)
        return known[2]

    def forget(self, pod: Object) -> None:
        """It is gone."""
        self._known.pop(uid_of(pod), None)


def _read(pod: Object) -> Wish:
    mistakes = None
    try:
        request = examined(pod)
    except Mistakes as exc:
        mistakes, request = exc, _parsed(pod)
    return Wish(request, models_of(pod, request), needs_of(pod), mistakes, pulled_images(part(pod, "spec")))


def _parsed(pod: Object) -> Request:
    try:
        return parse(annotations_of(pod))
    except Mistakes:
        return Request(wait=WaitFor.MOUNT)
