"""What a plan is made from, as the mirrors have it: demand, nodes, walls, and what may not be mounted anew. Pure.

The planner and `prestage plan --from-cluster` look with the same eyes. `Seeing` keeps what it read of each object, so that only
what changed is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prestage.api.artifacts import SourceAccess
from prestage.api.policies import CachePolicy
from prestage.control.demand.collecting import Collected, Collector, Mirrors, is_enabled
from prestage.control.demand.contents import Contents
from prestage.control.demand.records import Known, Line
from prestage.control.demand.walls import wall_of
from prestage.control.planning.access import allowed, blocked, evicting
from prestage.control.planning.policies import Policies, read_policies
from prestage.control.planning.states import Caches, SeenCache, States
from prestage.kube.ports import Object, metadata_of, name_of
from prestage.kube.resources import ARTIFACTS, CACHE_POLICIES, NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STORE_POOLS
from prestage.planner.demands import Demand, Wall
from prestage.planner.likeness import Parts
from prestage.planner.nodes import NodeState
from prestage.planner.plans import NodePlan


@dataclass(frozen=True, slots=True)
class Sight:
    """Of one moment."""

    collected: Collected
    nodes: Sequence[NodeState]
    images: Sequence[NodeState]
    """The nodes that stage images, as that room of theirs is."""
    walls: Mapping[str, Wall]
    policies: Policies
    caches: Mapping[str, SeenCache]
    stopped: Mapping[Line, SourceAccess]
    """What may not be mounted anew."""
    evicted: set[tuple[str, str]]
    """Owner and source of what goes for that."""
    parts: Parts
    """What artifacts share."""

    @property
    def demands(self) -> tuple[Demand, ...]:
        """What is planned for."""
        return allowed(self.collected, self.stopped, self.evicted)


class Seeing:
    """Keeps what it read. One for a planner."""

    def __init__(self) -> None:
        self._collector, self._caches, self._states = Collector(), Caches(), States()
        self._contents = Contents()

    def look(
        self,
        mirrors: Mirrors,
        now: float,
        *,
        answers: Mapping[Line, Known] | None = None,
        sent: Mapping[str, NodePlan] | None = None,
    ) -> Sight:
        """`answers`: what the broker said and no Artifact shows yet. `sent`: what was written and is not seen yet, by node."""
        caches = self._caches.look(mirrors[NODE_CACHES])
        collected = self._collector.collect(mirrors, answers, now=now)
        policies = read_policies(mirrors[CACHE_POLICIES])
        stopped = blocked(mirrors[ARTIFACTS], collected.known)
        nodes = self._states.of(mirrors[NODES], caches, mirrors[STORE_POOLS], sent or {}, now)
        return Sight(
            collected,
            nodes,
            self._states.images,
            walls_of(mirrors[NAMESPACES], policies.known),
            policies,
            caches,
            stopped,
            evicting(mirrors[STAGED_MODELS], stopped),
            self._contents.look(mirrors[ARTIFACTS]),
        )


def walls_of(namespaces: Iterable[Object], policies: Sequence[CachePolicy]) -> dict[str, Wall]:
    """Of each namespace that is in."""
    return {name_of(one): wall_of(labels_of(one), policies) for one in namespaces if is_enabled(one)}


def labels_of(seen: Object) -> dict[str, str]:
    """As text."""
    found = metadata_of(seen).get("labels")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
