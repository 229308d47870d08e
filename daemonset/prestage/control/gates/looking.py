"""One look at the world: what pods alike have in common is found out once, for thousands wait at a time.

Good until the world changes. `assume` counts a pod where it will probably land, so that the next one does not see its room.
Nodes that have nothing to do with an artifact differ by rate and backlog only: they are not asked about it one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prestage.control.demand.amounts import requests_of
from prestage.control.demand.feasibility import Needs, misfit, suits
from prestage.control.gates.prediction import Backlog, backlog_of, outlook
from prestage.control.gates.preference import PLACES_MAX, place_of
from prestage.control.gates.world import World
from prestage.control.podspec import part
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Fit:
    """Names of nodes. `fitting`: that could take the pod if they were empty; `with_room`: of those, that can take it now."""

    fitting: frozenset[str]
    with_room: set[str]


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of some artifacts, for pods that need the same of a node."""

    warm: tuple[str, ...] = ()
    """Names of warm nodes with room."""
    places: tuple[str, ...] = ()
    """Of warm nodes that fit, those with room first."""
    failed: bool = False
    """There are nodes with room that have a NodeCache, and staging failed on all of them."""
    ready_in_s: float | None = None
    """On the node with room that has them first; None: on none."""


class Look:
    """See the module. `assumed`: pods that are about to land, by node."""

    def __init__(self, world: World, assumed: Mapping[str, Sequence[Object]] | None = None) -> None:
        self.world = world
        self._sites = dict(world.sites())
        self._fits: dict[Needs, Fit] = {}
        self._prospects: dict[Needs, dict[tuple[str, ...], Prospect]] = {}
        self._backlogs: dict[str, Backlog] = {}
        for node, pods in (assumed or {}).items():
            for pod in pods:
                self.assume(node, pod)

    def assume(self, node: str, pod: Object) -> None:
        """It lands there."""
        site = self._sites.get(node)
        if site is None:
            return
        free = dict(site.free)
        for name, amount in requests_of(part(pod, "spec")).items():
            free[name] = free.get(name, 0) - amount
        self._sites[node] = site = replace(site, free=free)
        for needs, fit in self._fits.items():
            if node in fit.with_room and misfit(needs, site) is not None:
                fit.with_room.discard(node)
                self._prospects.pop(needs, None)

    def fit(self, needs: Needs) -> Fit:
        """Who could take such a pod, and who can now."""
        found = self._fits.get(needs)
        if found is None:
            fitting = frozenset(name for name, site in self._sites.items() if suits(needs, site) is None)
            found = Fit(fitting, {name for name in fitting if misfit(needs, self._sites[name]) is None})
            self._fits[needs] = found
        return found

    def prospect(self, needs: Needs, digests: tuple[str, ...]) -> Prospect:
        """When and where such a pod finds these, all of them."""
        known = self._prospects.setdefault(needs, {})
        found = known.get(digests)
        if found is None:
            found = known[digests] = self._prospect(self.fit(needs), digests)
        return found

    def _prospect(self, fit: Fit, digests: tuple[str, ...]) -> Prospect:
        world, now_s = self.world, self.world.clock()
        near = fit.fitting.intersection(set[str]().union(*map(world.holders, digests)))
        looks = {name: outlook(digests, world.holding(name), world.sizes, now_s) for name in sorted(near)}
        warm = [name for name, one in looks.items() if one.warm]
        roomy = [name for name in warm if name in fit.with_room]
        at_hand = [one for name, one in looks.items() if name in fit.with_room]
        moments = [one.ready_in_s for one in at_hand if one.ready_in_s is not None]
        others = fit.with_room if not roomy else ()
        far = [self._backlog(name) for name in others if name not in near and world.holding(name) is not None]
        if far and all(digest in world.sizes for digest in digests):
            moments.append(min(one.with_more_s(digests, world.sizes) for one in far))
        return Prospect(
            warm=tuple(roomy),
            places=_places([*roomy, *warm], world),
            failed=bool(at_hand) and not far and all(one.failed for one in at_hand),
            ready_in_s=min(moments, default=None),
        )

    def _backlog(self, name: str) -> Backlog:
        found = self._backlogs.get(name)
        if found is None:
            node = self.world.holding(name)
            assert node is not None
            found = self._backlogs[name] = backlog_of(node, self.world.sizes, self.world.clock())
        return found


def _places(names: Sequence[str], world: World) -> tuple[str, ...]:
    first = list(dict.fromkeys(names))[: 2 * PLACES_MAX]
    nodes = [node for name in first if (node := world.node(name)) is not None]
    found = [place for node in nodes if (place := place_of(node)) is not None]
    return tuple(found[:PLACES_MAX])
