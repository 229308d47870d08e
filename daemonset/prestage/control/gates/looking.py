"""One look at the world: what pods alike have in common is found out once, for thousands wait at a time.

Good until the world changes. `assume` counts a pod where it will probably land, so that the next one does not see its room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prestage.control.demand.amounts import requests_of
from prestage.control.demand.feasibility import Needs, misfit, needs_of, suits
from prestage.control.gates.prediction import Outlook, outlook
from prestage.control.gates.world import World
from prestage.control.podspec import part
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Fit:
    """Names of nodes. `fitting`: that could take the pod if they were empty; `with_room`: of those, that can take it now."""

    fitting: frozenset[str]
    with_room: set[str]


class Look:
    """See the module. `assumed`: pods that are about to land, by node."""

    def __init__(self, world: World, assumed: Mapping[str, Sequence[Object]] | None = None) -> None:
        self.world = world
        self._sites = dict(world.sites())
        self._fits: dict[Needs, Fit] = {}
        self._outlooks: dict[tuple[str, ...], dict[str, Outlook]] = {}
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

    def fit(self, pod: Object) -> Fit:
        """Who could take it, and who can now."""
        needs = needs_of(pod)
        found = self._fits.get(needs)
        if found is None:
            fitting = frozenset(name for name, site in self._sites.items() if suits(needs, site) is None)
            found = Fit(fitting, {name for name in fitting if misfit(needs, self._sites[name]) is None})
            self._fits[needs] = found
        return found

    def outlooks(self, digests: tuple[str, ...]) -> Mapping[str, Outlook]:
        """When each node that has a NodeCache will hold them."""
        found = self._outlooks.get(digests)
        if found is None:
            now_s, sizes = self.world.clock(), self.world.sizes
            found = {name: outlook(digests, node, sizes, now_s) for name, node in self.world.holdings().items()}
            self._outlooks[digests] = found
        return found
