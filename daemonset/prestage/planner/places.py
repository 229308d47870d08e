"""Where pods find place now: accelerators, memory and all else that a scheduler counts. Of the demands for one artifact each
place is for one, the surest first: three workloads that begin with it need three places, and a copy wherever those are.

Nobody tells what a pod takes, only how many of a kind would fit: of four each takes a quarter of what is free. Demands for other
artifacts are not asked: who would be pushed away by them would stage anew what is on its way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prestage.planner.demands import Demand

_ROUNDING = 1e-9


class Places:
    """Of one plan."""

    def __init__(self) -> None:
        self._taken = defaultdict[tuple[str, str], float](float)
        """By node and artifact, of what is free there: 1 is all."""

    def left(self, demand: Demand, node: str) -> int:
        """How many of its pods find place there beside those of surer demands. Where none fits now one may when others end."""
        taken = self._taken.get((node, demand.artifact), 0.0)
        return max(0, math.floor(max(1, demand.at.get(node, 0)) * (1.0 - taken) + _ROUNDING))

    def take(self, demand: Demand, node: str, pods: int) -> None:
        """At most as many as are left."""
        self._taken[node, demand.artifact] += pods / max(1, demand.at.get(node, 0))

    def with_some_first(self, demand: Demand, nodes: Iterable[str]) -> Iterator[str]:
        """`nodes` in their order, those without a place left after all others."""
        without = list[str]()
        for node in nodes:
            if self.left(demand, node) > 0:
                yield node
            else:
                without.append(node)
        yield from without
