"""A World filled by hand: what Followers would have brought."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from pods.objects import NOW, lease
from prestage.control.gates.followed import FOLLOWED
from prestage.control.gates.world import World
from prestage.kube.mirror import Synced
from prestage.kube.ports import Happening, Object, Resource, WatchEvent, metadata_of

_VERSIONS = itertools.count(1)
_KINDS = {resource.kind: resource for resource in FOLLOWED}


class Clock:
    """Moves by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def world(*objects: Object, whole: bool = True, leader_age_s: float | None = 1.0, clock: Clock | None = None) -> World:
    made = World("prestage", clock=clock or Clock(), now=lambda: NOW)
    put(made, *objects, *([lease(leader_age_s)] if leader_age_s is not None else []))
    if whole:
        for resource in FOLLOWED:
            made.note(resource, Synced())
    return made


def put(there: World, *objects: Object, happening: Happening = Happening.MODIFIED) -> None:
    """As a watch would."""
    for one in objects:
        resource = _KINDS[str(one["kind"])]
        stamped = {
            **one,
            "metadata": {"uid": f"uid-{metadata_of(one)['name']}", **metadata_of(one), "resourceVersion": str(next(_VERSIONS))},
        }
        _take(there, resource, WatchEvent(happening, stamped))


def drop(there: World, *objects: Object) -> None:
    put(there, *objects, happening=Happening.DELETED)


def _take(there: World, resource: Resource, event: WatchEvent) -> None:
    for change in _changes(there, resource, event):
        there.note(resource, change)  # type: ignore[arg-type]


def _changes(there: World, resource: Resource, event: WatchEvent) -> Iterable[object]:
    return there.mirrors[resource].take(event)
