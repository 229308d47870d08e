"""One look at the world: what pods alike have in common is found out once, for thousands wait at a time.

Good until the world changes. `assume` counts a pod where it will probably land, so that the next one does not see its room.
Nodes that have nothing to do with an artifact differ by rate and backlog only: they are not asked about it one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prestage.control.demand.amounts import requests_of
from prestage.control.demand.feasibility import Needs, Site, misfit
from prestage.control.gates.fits import Fit
from prestage.control.gates.images import NO_IMAGES, ImageOutlook, PodImages, Standing, image_outlook, with_awaited
from prestage.control.gates.prediction import Backlog, Outlook, backlog_of, outlook
from prestage.control.gates.preference import PLACES_MAX, place_of
from prestage.control.gates.world import World
from prestage.control.podspec import part
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of some models and images, for pods that need the same of a node."""

    warm: tuple[str, ...] = ()
    """Names of nodes with room that hold the models, and the images or stage none."""
    bare: tuple[str, ...] = ()
    """Names of nodes with room that hold the models only."""
    places: tuple[str, ...] = ()
    """Of warm nodes that fit, those with room first; where none is warm, of those that hold the models."""
    failed: bool = False
    """There are nodes with room that have a NodeCache, and staging models failed on all of them."""
    ready_in_s: float | None = None
    """On the node with room that has what it is told to first, of those that hold the models where some do; None: on none."""
    images_coming: bool = False
    """To one of `bare`."""
    images_possible: bool = False
    """The same, once a plan says so."""


@dataclass(frozen=True, slots=True)
class _One:
    """What one node promises."""

    models: Outlook
    images: ImageOutlook

    @property
    def ready_in_s(self) -> float | None:
        """With what it is told to; images that are left to the kubelet are pulled beside."""
        found = self.models.ready_in_s
        return None if found is None else max(found, self.images.ready_in_s)

    @property
    def warm(self) -> bool:
        """Nothing is to be waited for there."""
        return self.models.warm and self.images.is_settled


class Look:
    """See the module. `assumed`: pods that are about to land, by node."""

    def __init__(self, world: World, assumed: Mapping[str, Sequence[Object]] | None = None) -> None:
        self.world = world
        self._sites = world.sites()
        self._landed: dict[str, Site] = {}
        """Nodes with who is about to land there."""
        self._fits: dict[Needs, Fit] = {}
        self._prospects: dict[Needs, dict[tuple[tuple[str, ...], PodImages], Prospect]] = {}
        self._backlogs: dict[str, Backlog] = {}
        for node, pods in (assumed or {}).items():
            for pod in pods:
                self.assume(node, pod)

    def assume(self, node: str, pod: Object) -> None:
        """It lands there."""
        site = self._landed.get(node) or self._sites.get(node)
        if site is None:
            return
        free = dict(site.free)
        for name, amount in requests_of(part(pod, "spec")).items():
            free[name] = free.get(name, 0) - amount
        self._landed[node] = site = replace(site, free=free)
        for needs, fit in self._fits.items():
            if node in fit.with_room and misfit(needs, site) is not None:
                fit.with_room.discard(node)
                self._prospects.pop(needs, None)

    def fit(self, needs: Needs) -> Fit:
        """Who could take such a pod, and who can now."""
        found = self._fits.get(needs)
        if found is None:
            found = self._fits[needs] = self.world.fit(needs)
            full = [name for name, site in self._landed.items() if name in found.with_room and misfit(needs, site) is not None]
            found.with_room.difference_update(full)
        return found

    def prospect(self, needs: Needs, digests: tuple[str, ...], images: PodImages = NO_IMAGES) -> Prospect:
        """When and where such a pod finds these models, all of them, and its images."""
        known = self._prospects.setdefault(needs, {})
        found = known.get((digests, images))
        if found is None:
            found = known[digests, images] = self._prospect(self.fit(needs), digests, images)
        return found

    def _one(self, name: str, digests: Sequence[str], images: PodImages) -> _One:
        world, node, now_s = self.world, self.world.holding(name), self.world.clock()
        needed = tuple(images.on(world.architecture(name))) if images.rows else ()
        found = image_outlook(needed, node, world.sizes, now_s)
        return _One(outlook(digests, node, world.sizes, now_s), with_awaited(found, node, is_awaited=images.is_awaited))

    def _prospect(self, fit: Fit, digests: tuple[str, ...], images: PodImages) -> Prospect:
        world = self.world
        near = fit.fitting & set[str]().union(*map(world.holders, digests))
        looks = {name: self._one(name, digests, images) for name in sorted(near)}
        roomy = [name for name, one in looks.items() if one.warm and name in fit.with_room]
        at_hand = {name: one for name, one in looks.items() if name in fit.with_room}
        bare = {name: one.images for name, one in at_hand.items() if one.models.warm and not one.warm}
        if bare and not roomy:
            return _of_models(looks, bare, world)
        moments = [one.ready_in_s for one in at_hand.values() if one.ready_in_s is not None]
        others, held, sizes = fit.with_room if not roomy else (), world.holdings(), world.sizes
        far = [self._backlog(name) for name in others if name in held and name not in near]
        if far and all(digest in sizes for digest in digests):
            more_bytes = sum(sizes[digest] for digest in digests)
            moments.append(min(one.with_bytes_s(more_bytes) for one in far))
        return Prospect(
            warm=tuple(roomy),
            bare=tuple(bare),
            places=_places(_preferred(looks, roomy), world),
            failed=bool(at_hand) and not far and all(one.models.failed for one in at_hand.values()),
            ready_in_s=min(moments, default=None),
        )

    def _backlog(self, name: str) -> Backlog:
        found = self._backlogs.get(name)
        if found is None:
            node = self.world.holding(name)
            assert node is not None
            found = self._backlogs[name] = backlog_of(node, self.world.sizes, self.world.clock())
        return found


def _of_models(looks: Mapping[str, _One], bare: Mapping[str, ImageOutlook], world: World) -> Prospect:
    """Nodes with room hold the models, and not the images: what is still to come to others is not waited for."""
    coming = [one.ready_in_s for one in bare.values() if one.standing is Standing.COMING]
    return Prospect(
        bare=tuple(bare),
        places=_places([*bare, *(name for name, one in looks.items() if one.models.warm)], world),
        ready_in_s=min(coming, default=None),
        images_coming=bool(coming),
        images_possible=any(one.standing is Standing.POSSIBLE for one in bare.values()),
    )


def _preferred(looks: Mapping[str, _One], roomy: Sequence[str]) -> list[str]:
    """Those that hold the images before those that stage none: one term weighs all the same."""
    warm = [name for name, one in looks.items() if one.warm]
    holding = {name for name in warm if looks[name].images.standing is Standing.WARM}
    kept = holding if holding.intersection(roomy) else set(warm)
    found = [name for name in (*roomy, *warm) if name in kept]
    return found or [name for name, one in looks.items() if one.models.warm]


def _places(names: Sequence[str], world: World) -> tuple[str, ...]:
    first = list(dict.fromkeys(names))[: 2 * PLACES_MAX]
    nodes = [node for name in first if (node := world.node(name)) is not None]
    found = [place for node in nodes if (place := place_of(node)) is not None]
    return tuple(found[:PLACES_MAX])
