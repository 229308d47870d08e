"""What nodes hold and since when, as their NodeCaches say it; kept from change to change."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import NodeCache, State
from prestage.api.reading import Invalid, read
from prestage.control.gates.prediction import Holding, holding, told_anew, told_images
from prestage.kube.mirror import Appeared, Changed, Vanished
from prestage.kube.ports import Object, name_of

_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(slots=True)
class Holdings:
    """Of all nodes."""

    by_node: dict[str, Holding] = field(default_factory=dict)
    stagers: set[str] = field(default_factory=set)
    """Nodes that stage images."""
    _holders: dict[str, set[str]] = field(default_factory=dict)
    _since: dict[str, dict[str, tuple[State, float]]] = field(default_factory=dict)
    _told_s: dict[str, dict[str, float]] = field(default_factory=dict)

    def holders(self, digest: str) -> Set[str]:
        """Nodes whose NodeCache says anything of it."""
        return self._holders.get(digest, _NOBODY)

    def note(self, change: Appeared | Changed | Vanished, at_s: float) -> Set[str]:
        """Take a NodeCache in: the artifacts of which it says something new. `at_s`: of a clock that only grows."""
        name = name_of(change.object)
        before = self.by_node.get(name)
        if isinstance(change, Vanished):
            self._hold(name, None)
            self._since.pop(name, None)
            self._told_s.pop(name, None)
        else:
            self._hold(name, self._read(name, change.object, at_s))
        return told_anew(before, self.by_node.get(name))

    def _read(self, name: str, seen: Object, at_s: float) -> Holding | None:
        try:
            cache = read(NodeCache, seen)
        except Invalid:
            return None  # of a newer version: as if it were not there
        before = self._since.get(name, {})
        held = {one.digest: one.state for one in (cache.status.artifacts if cache.status else None) or ()}
        since = {digest: before.get(digest, (state, at_s)) for digest, state in held.items()}
        since = {digest: (held[digest], at_s) if seen_[0] is not held[digest] else seen_ for digest, seen_ in since.items()}
        self._since[name] = since
        told_s = self._told_s.get(name, {})
        told_s = self._told_s[name] = {digest: told_s.get(digest, at_s) for digest in told_images(cache)}
        return holding(cache, {digest: moment for digest, (_, moment) in since.items()}, told_s)

    def _hold(self, name: str, node: Holding | None) -> None:
        before = self.by_node.pop(name, None)
        for digest in before.states if before is not None else ():
            there = self._holders[digest]
            there.discard(name)
            if not there:
                del self._holders[digest]
        (self.stagers.add if node is not None and node.images is not None else self.stagers.discard)(name)
        if node is not None:
            self.by_node[name] = node
            for digest in node.states:
                self._holders.setdefault(digest, set()).add(name)
