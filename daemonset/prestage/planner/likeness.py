"""What a node has already of what an artifact is made of, or of what its pods need beside: a reason to choose it, and no more.

Nothing is asked of it but an order among nodes that are otherwise alike: bytes that need not come. What is promised and charged
stays the whole size.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
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

    def __init__(self, parts: Parts, there: Mapping[str, Collection[str]]) -> None:
        """`there`: by artifact, the nodes that have it or will; artifacts and nodes may be added, none goes."""
        self._parts, self._there = parts, there
        self._who: dict[int, list[str]] = {}
        self._who_of = 0
        """So many artifacts were anywhere when `_who` was found."""

    def saved_bytes(self, demand: Demand) -> dict[str, int]:
        """By node: what of it and of what goes beside it need not come, because something else has it there. Without what the
        artifact itself holds: where that is, it is warm or coming."""
        own = self._parts.of.get(demand.artifact, {})
        found = defaultdict[str, int](int)
        for other, shared in self._others(demand.artifact, own).items():
            for node in self._there[other]:
                found[node] |= shared
        sizes = list(own.values())
        sums = {shared: sum(size for place, size in enumerate(sizes) if shared >> place & 1) for shared in set(found.values())}
        saved = {node: sums[shared] for node, shared in found.items() if sums[shared] >= _LEAST * demand.size_bytes}
        for other, size_bytes in demand.beside.items():
            for node in self._there.get(other, ()):
                saved[node] = saved.get(node, 0) + size_bytes
        return saved

    def _others(self, artifact: str, own: Iterable[int]) -> dict[str, int]:
        """Artifacts that are somewhere, with what of its parts each has: a bit for each, by its place in `own`."""
        found = defaultdict[str, int](int)
        for place, part in enumerate(own):
            others = [one for one in self._with(part) if one != artifact]
            for other in others[:_OTHERS_MAX]:
                found[other] |= 1 << place
        return found

    def _with(self, part: int) -> list[str]:
        """Artifacts that are somewhere and have it, one more than are asked for."""
        if self._who_of != len(self._there):
            self._who, self._who_of = {}, len(self._there)
        found = self._who.get(part)
        if found is None:
            somewhere = (one for one in self._parts.holders.get(part, ()) if one in self._there)
            found = self._who[part] = heapq.nsmallest(_OTHERS_MAX + 1, somewhere)
        return found
