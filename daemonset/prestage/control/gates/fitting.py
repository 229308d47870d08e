"""Which nodes could take a pod, and which have room now: demand.feasibility over the world's sites. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prestage.control.demand.amounts import requests_of
from prestage.control.demand.feasibility import Site, misfit, needs_of, suits
from prestage.control.podspec import part
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Fit:
    """Names of nodes. `fitting`: that could take the pod if they were empty; `with_room`: of those, that can take it now."""

    fitting: frozenset[str] = frozenset()
    with_room: frozenset[str] = frozenset()


def fit(pod: Object, sites: Mapping[str, Site], assumed: Mapping[str, Sequence[Object]]) -> Fit:
    """`assumed`: pods that are about to land, by node."""
    needs = needs_of(pod)
    fitting = {name for name, site in sites.items() if suits(needs, site) is None}
    roomy = {name for name in fitting if misfit(needs, _with(sites[name], assumed.get(name, ()))) is None}
    return Fit(frozenset(fitting), frozenset(roomy))


def _with(site: Site, pods: Sequence[Object]) -> Site:
    if not pods:
        return site
    free = dict(site.free)
    for pod in pods:
        for name, amount in requests_of(part(pod, "spec")).items():
            free[name] = free.get(name, 0) - amount
    return replace(site, free=free)
