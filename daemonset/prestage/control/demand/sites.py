"""Nodes and the room on them, for many pods at once: which of them a template may run on, and how many fit now.

The same answers as feasibility.py gives one by one; what nodes have in common is looked at once. `Sites` is kept from plan to
plan, so that only what changed is looked at again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from prestage.api.selecting import selects
from prestage.api.values import LabelSelector
from prestage.control.demand.feasibility import Needs, Site, Where, site_of
from prestage.control.demand.image_lines import ARCHITECTURE
from prestage.control.demand.leaving import is_away
from prestage.control.demand.pods import PodFacts
from prestage.kube.ports import Object, name_of, uid_of, version_of

_Shape = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Selected:
    """Nodes that a selector selects: those that are there and stay, and whether there are any at all."""

    names: frozenset[str]
    is_any: bool


@dataclass(slots=True)
class Sites:
    """Call `look` first."""

    by_name: dict[str, Site] = field(default_factory=dict)
    _seen: dict[str, tuple[str, str]] = field(default_factory=dict)
    _free: dict[str, dict[str, int]] = field(default_factory=dict)
    _shapes: dict[_Shape, set[str]] = field(default_factory=dict)
    _where: dict[Where, frozenset[str]] = field(default_factory=dict)
    _feasible: dict[Needs, frozenset[str]] = field(default_factory=dict)
    _fitting: dict[Needs, dict[str, int]] = field(default_factory=dict)
    _asked: set[Needs] = field(default_factory=set)
    _selected: dict[bytes, Selected] = field(default_factory=dict)
    _architectures: dict[frozenset[str] | None, dict[str, frozenset[str]]] = field(default_factory=dict)

    def look(self, nodes: Iterable[Object], pods: Iterable[PodFacts]) -> None:
        """Take in how the cluster is now. `pods`: all of them, whoever's."""
        seen = {name_of(node): node for node in nodes}
        is_same = seen.keys() == self.by_name.keys()
        for name, node in seen.items():
            mark = (uid_of(node), version_of(node))
            if self._seen.get(name) == mark:
                continue
            self._seen[name] = mark
            made = site_of(node)
            is_same = is_same and self.by_name.get(name) == made
            self.by_name[name] = made
        if not is_same:
            for gone in self.by_name.keys() - seen.keys():
                del self.by_name[gone], self._seen[gone]
            shapes = defaultdict[_Shape, set[str]](set)
            for name, site in self.by_name.items():
                shapes[tuple(sorted(site.allocatable.items()))].add(name)
            self._shapes = dict(shapes)
            self._where.clear()
            self._feasible.clear()
            self._selected.clear()
            self._architectures.clear()
        fresh = {name: dict(site.allocatable) for name, site in self.by_name.items()}
        for pod in pods:
            if pod.takes_room_on is not None and (free := fresh.get(pod.takes_room_on)) is not None:
                for resource, amount in pod.needs.requests:
                    free[resource] = free.get(resource, 0) - amount
        changed = [name for name, free in fresh.items() if self._free.get(name) != free]
        self._free = fresh
        self._refit([] if not is_same else changed, is_all=not is_same or len(changed) > _FEW)

    def feasible(self, needs: Needs) -> frozenset[str]:
        """Where it could run once others end."""
        found = self._feasible.get(needs)
        if found is None:
            if len(self._feasible) > _REMEMBERED:
                self._feasible.clear()
            fits = [
                names
                for shape, names in self._shapes.items()
                if all(amount <= dict(shape).get(resource, 0) for resource, amount in needs.requests)
            ]
            found = self._feasible[needs] = self._allowed(needs.where).intersection(set[str]().union(*fits))
        return found

    def selected(self, selector: LabelSelector) -> Selected:
        """By their labels."""
        key = msgspec.json.encode(selector, order="deterministic")
        found = self._selected.get(key)
        if found is None:
            if len(self._selected) > _REMEMBERED:
                self._selected.clear()
            matching = [site for site in self.by_name.values() if selects(selector, site.labels)]
            there = frozenset(site.name for site in matching if not is_away(site.taints))
            found = self._selected[key] = Selected(there, bool(matching))
        return found

    def by_architecture(self, names: frozenset[str] | None = None) -> dict[str, frozenset[str]]:
        """Nodes by what their kubelet says; `names` None: of all."""
        made = self._architectures.get(names)
        if made is None:
            if len(self._architectures) > _REMEMBERED:
                self._architectures.clear()
            found = defaultdict[str, set[str]](set)
            for name in self.by_name if names is None else names:
                if (site := self.by_name.get(name)) is not None:
                    found[site.labels.get(ARCHITECTURE, "amd64")].add(name)
            made = {architecture: frozenset(there) for architecture, there in sorted(found.items())}
            self._architectures[names] = made
        return made

    def fitting(self, needs: Needs) -> dict[str, int]:
        """Where it fits now, and how often."""
        self._asked.add(needs)
        found = self._fitting.get(needs)
        if found is None:
            found = self._fitting[needs] = {}
            for name in self.feasible(needs):
                if (most := self._slots(needs, name)) > 0:
                    found[name] = most
        return found.copy()

    def _refit(self, changed: list[str], *, is_all: bool) -> None:
        """What was asked for last time is kept, but for nodes on which the room is another."""
        self._fitting = {} if is_all else {needs: self._fitting[needs] for needs in self._asked & self._fitting.keys()}
        self._asked = set()
        for needs, found in self._fitting.items():
            for name in changed:
                found.pop(name, None)
                if name in self.feasible(needs) and (most := self._slots(needs, name)) > 0:
                    found[name] = most

    def _slots(self, needs: Needs, name: str) -> int:
        free, most = self._free[name], 2**31
        for resource, amount in needs.requests:
            most = min(most, free.get(resource, 0) // amount)
            if most < 1:
                return 0
        return most

    def _allowed(self, where: Where) -> frozenset[str]:
        found = self._where.get(where)
        if found is None:
            if len(self._where) > _REMEMBERED:
                self._where.clear()
            found = self._where[where] = frozenset(name for name, site in self.by_name.items() if where.misfit(site) is None)
        return found


_REMEMBERED = 4096
_FEW = 50
"""Nodes whose room changed: with more it is quicker to look anew."""
