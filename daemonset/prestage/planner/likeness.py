"""What a node has already of what an artifact is made of, or of what its pods need beside: a reason to choose it, and no more.

Nothing is asked of it but an order among nodes that are otherwise alike: bytes that need not come. What is promised and charged
stays the whole size.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from prestage.planner.demands import Demand

_LEAST = 0.02
"""Of its bytes: less than that is no reason to prefer a node to one with more room."""
_OTHERS_MAX = 64
"""Of a part that more artifacts have so many are asked for: it is only an order."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What artifacts share: files of models, layers of images, each by a number that stands for it."""

    of: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By artifact: its parts that others have too, with their bytes."""
    holders: Mapping[int, Collection[str]] = field(default_factory=dict)
    """By part: the artifacts that have it."""


class Likeness:
    """Of one plan."""

    def __init__(self, parts: Parts, near: Mapping[str, Iterable[str]], has: Callable[[str, str], bool]) -> None:
        """`near`: by artifact, the nodes that may have it. `has`: whether a node does, or will."""
        self._parts, self._near, self._has = parts, near, has

    def saved_bytes(self, demand: Demand) -> dict[str, int]:
        """By node: what of it and of what goes beside it need not come, because something else has it there. Without what the
        artifact itself holds: where that is, it is warm or coming."""
        own = self._parts.of.get(demand.artifact, {})
        found = defaultdict[str, set[int]](set)
        for other, shared in self._others(demand.artifact, own).items():
            for node in self._near.get(other, ()):
                if self._has(node, other):
                    found[node].update(shared)
        sums = {node: sum(own[part] for part in there) for node, there in found.items()}
        saved = {node: total for node, total in sums.items() if total >= _LEAST * demand.size_bytes}
        for other, size_bytes in demand.beside.items():
            for node in self._near.get(other, ()):
                if self._has(node, other):
                    saved[node] = saved.get(node, 0) + size_bytes
        return saved

    def _others(self, artifact: str, own: Iterable[int]) -> dict[str, list[int]]:
        """Artifacts that are somewhere, with what of its parts each has."""
        found = defaultdict[str, list[int]](list)
        for part in own:
            there = [one for one in self._parts.holders.get(part, ()) if one != artifact and one in self._near]
            for other in there if len(there) <= _OTHERS_MAX else heapq.nsmallest(_OTHERS_MAX, there):
                found[other].append(part)
        return found
