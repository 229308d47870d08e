"""Which nodes take a pod, kept from look to look: only nodes that became another are asked again. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from prestage.control.demand.feasibility import Needs, Site, misfit, suits

_NAMES_MAX: Final = 100_000
"""Nodes of all kinds of pods together, some 20 MB: of more the kind that was asked about longest ago is found anew."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Names of nodes. `fitting`: that could take the pod if they were empty; `with_room`: of those, that can take it now."""

    fitting: Set[str]
    with_room: set[str]


@dataclass(slots=True)
class _Known:
    stale: set[str]
    fitting: set[str] = field(default_factory=set)
    with_room: set[str] = field(default_factory=set)


class Fits:
    """For each kind of pod that was asked about."""

    def __init__(self) -> None:
        self._known: dict[Needs, _Known] = {}

    def changed(self, node: str) -> None:
        """It is another one now: free room, labels, taints; or it came, or is gone."""
        for known in self._known.values():
            known.stale.add(node)

    def of(self, needs: Needs, sites: Mapping[str, Site]) -> Fit:
        """`sites`: all nodes; of each that is another than the last time `changed` was told. `with_room` is the caller's own."""
        known = self._known.pop(needs, None) or _Known(set(sites))
        while self._known and (len(self._known) + 1) * len(sites) > _NAMES_MAX:
            del self._known[next(iter(self._known))]
        self._known[needs] = known
        for name in known.stale:
            site = sites.get(name)
            fits = site is not None and suits(needs, site) is None
            (known.fitting.add if fits else known.fitting.discard)(name)
            has_room = fits and site is not None and misfit(needs, site) is None
            (known.with_room.add if has_room else known.with_room.discard)(name)
        known.stale.clear()
        return Fit(known.fitting, set(known.with_room))
