"""What a node has already of what an artifact is made of, or of what its pods need beside: a reason to choose it, and no more.

Nothing is asked of it but an order among nodes that are otherwise alike: bytes that need not come. What is promised and charged
stays the whole size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prestage.planner.demands import Demand

Parts = Mapping[str, Mapping[str, int]]
"""By artifact: its blobs or layers, with their bytes."""


class Likeness:
    """Of one plan."""

    def __init__(self, parts: Parts, near: Mapping[str, Iterable[str]], has: Callable[[str, str], bool]) -> None:
        """`near`: by artifact, the nodes that may have it. `has`: whether a node does, or will."""
        self._parts, self._near, self._has = parts, near, has
        self._made_of = defaultdict[str, list[str]](list)
        for artifact, own in parts.items():
            for part in own:
                self._made_of[part].append(artifact)

    def saved_bytes(self, demand: Demand) -> dict[str, int]:
        """By node: what of it and of what goes beside it need not come, because something else has it there. Without what the
        artifact itself holds: where that is, it is warm or coming."""
        found = defaultdict[str, set[str]](set)
        own = self._parts.get(demand.artifact, {})
        for part in own:
            for other in self._made_of[part]:
                if other != demand.artifact:
                    for node in self._near.get(other, ()):
                        if part not in found[node] and self._has(node, other):
                            found[node].add(part)
        saved = {node: sum(own[part] for part in there) for node, there in found.items() if there}
        for other, size_bytes in demand.beside.items():
            for node in self._near.get(other, ()):
                if self._has(node, other):
                    saved[node] = saved.get(node, 0) + size_bytes
        return saved
