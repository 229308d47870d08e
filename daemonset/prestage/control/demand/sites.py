"""Nodes and the room on them, for many pods at once: which of them a template may run on, and how many fit now.

The same answers as feasibility.py gives one by one; what nodes have in common is looked at once. `Sites` is kept from plan to
plan, so that only what changed is looked at again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from prestage.api.selecting import selects
from prestage.api.values import LabelSelector
from prestage.control.demand.feasibility import Needs, Site, Where, site_of
from prestage.control.demand.image_lines import ARCHITECTURE
from prestage.control.demand.leaving import is_away
from prestage.control.demand.once import Once
from prestage.control.demand.pods import PodFacts
from prestage.kube.ports import Object

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
    turn: int = 0
    """Another number: other nodes, or nodes that say something else."""
    _seen: Once[Site] = field(default_factory=lambda: Once(site_of))
    _takers: dict[int, PodFacts] = field(default_factory=dict)
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
        before = self.by_name
        self.by_name = {site.name: site for _, site in self._seen.look(nodes)}
        takers = {id(pod): pod for pod in pods if pod.takes_room_on is not None}  # held here: an id is one pod's
        if is_same := self.by_name == before:
            changed = self._move(takers)
        else:
            self._forget_nodes()
            self._free = {name: dict(site.allocatable) for name, site in self.by_name.items()}
            changed = self._take(takers.values(), 1)
        self._takers = takers
        self._refit(changed, is_all=not is_same or len(changed) > _FEW)

    def _forget_nodes(self) -> None:
        self.turn += 1
        shapes = defaultdict[_Shape, set[str]](set)
        for name, site in self.by_name.items():
            shapes[tuple(sorted(site.allocatable.items()))].add(name)
        self._shapes = dict(shapes)
        self._where.clear()
        self._feasible.clear()
        self._selected.clear()
        self._architectures.clear()

    def _move(self, takers: Mapping[int, PodFacts]) -> set[str]:
        """From the pods of the last look to these; the nodes on which the room is another."""
        came = [takers[one] for one in takers.keys() - self._takers.keys()]
        went = [self._takers[one] for one in self._takers.keys() - takers.keys()]
        before = {name: dict(self._free[name]) for one in (*came, *went) if (name := one.takes_room_on) in self._free}
        self._take(went, -1)
        self._take(came, 1)
        return {name for name, free in before.items() if free != self._free[name]}

    def _take(self, pods: Iterable[PodFacts], sign: int) -> set[str]:
        """The nodes on which they are."""
        touched = set[str]()
        for pod in pods:
            if pod.takes_room_on is not None and (free := self._free.get(pod.takes_room_on)) is not None:
                touched.add(pod.takes_room_on)
                for resource, amount in pod.needs.requests:
                    free[resource] = free.get(resource, 0) - sign * amount
        return touched

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

    def fitting(self, needs: Needs) -> Mapping[str, int]:
        """Where it fits now, and how often. The same object as long as it says the same."""
        self._asked.add(needs)
        found = self._fitting.get(needs)
        if found is None:
            found = {name: most for name in self.feasible(needs) if (most := self._slots(needs, name)) > 0}
            self._fitting[needs] = found
        return found

    def _refit(self, changed: Iterable[str], *, is_all: bool) -> None:
        """What was asked for last time is kept, but for nodes on which the room is another."""
        self._fitting = {} if is_all else {needs: self._fitting[needs] for needs in self._asked & self._fitting.keys()}
        self._asked = set()
        for needs, found in self._fitting.items():
            there = self.feasible(needs)
            slots = {name: self._slots(needs, name) for name in changed if name in there}
            others = {name: most for name, most in slots.items() if most != found.get(name, 0)}
            if others:
                made = {**found, **others}
                self._fitting[needs] = {name: most for name, most in made.items() if most > 0}

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
