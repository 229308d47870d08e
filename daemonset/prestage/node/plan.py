"""What a NodeCache says, as the node goes by it. Pure, but for the order that the store asks for from its threads.

No NodeCache, an empty one, one of another Node: keep everything, evict nothing. Images are the `images` container's: of them only
what the startup taint waits for is here.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prestage.api.nodes import Action, EntryType, NodeCacheSpec, PlannedArtifact
from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.budget import Candidate, Kind, LeastRecentlyUsed
from prestage.cacher.transfer.limits import Priority

_NOW = datetime.datetime.min.replace(tzinfo=datetime.UTC)
WAITING_FROM, DECLARED_FROM = 800_000_000, 700_000_000
"""The planner's classes of priority: a pod that is bound or waits; what was said aloud; below, what follows a burst."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The last that was said."""

    artifacts: Mapping[ArtifactId, PlannedArtifact] = field(default_factory=dict)
    name: str | None = None
    generation: int | None = None
    images: Sequence[PlannedArtifact] = ()
    """To be staged by the `images` container."""

    @property
    def says_nothing(self) -> bool:
        """Then nothing is evicted."""
        return not self.artifacts

    @property
    def to_stage(self) -> list[PlannedArtifact]:
        """The most urgent first; of those alike the one that is wanted sooner, and before it what is wanted now."""
        wanted = [one for one in self.artifacts.values() if one.action is Action.STAGE]
        return sorted(wanted, key=lambda one: (-one.priority, one.ready_by or _NOW, one.digest))


def plan_of(spec: NodeCacheSpec, *, generation: int | None, node_uid: str | None) -> Plan:
    """`node_uid`: of the Node that we are on, where we know it: what is meant for another of its name says nothing to us."""
    if node_uid is not None and spec.node_uid != node_uid:
        return Plan(name=spec.plan, generation=generation)
    found = {ArtifactId(one.digest): one for one in spec.artifacts or () if one.type is EntryType.MODEL}
    images = tuple(one for one in spec.artifacts or () if one.type is EntryType.IMAGE and one.action is Action.STAGE)
    return Plan(found, spec.plan, generation, images)


def priority_of(planned: PlannedArtifact) -> Priority:
    """The agent's three for the planner's number."""
    if planned.priority >= WAITING_FROM:
        return Priority.WAITING_POD
    return Priority.DECLARED if planned.priority >= DECLARED_FROM else Priority.FOLLOW_ON


def said_of(plan: Plan, artifact: ArtifactId) -> str:
    """For `prestage why`: what the plan means for it."""
    planned = plan.artifacts.get(artifact)
    if plan.says_nothing:
        return "the cluster's plan says nothing for this node: nothing is evicted, nothing is fetched"
    if planned is None:
        return "the cluster's plan does not name it: it goes when room is needed, and comes back once the plan says so"
    by = f", ready by {planned.ready_by:%Y-%m-%dT%H:%M:%SZ}" if planned.ready_by is not None else ""
    words = {
        Action.STAGE: f"the cluster's plan wants it here{by}",
        Action.KEEP: "the cluster's plan keeps it here: it was wanted, or will be",
        Action.RELEASE: "the cluster's plan lets go of it first when room is needed: nobody wants it",
    }
    return words[planned.action]


class EvictionOrder:
    """A `Policy` of the store: what the plan releases, then what it does not name; never what it stages or keeps."""

    def __init__(self) -> None:
        self.plan = Plan()
        """Replaced as a whole."""
        self._used = LeastRecentlyUsed()

    def order(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """See `Policy.order`."""
        plan = self.plan
        by_use = self._used.order(candidates)
        leftovers = [one for one in by_use if one.kind is not Kind.ARTIFACT]
        if plan.says_nothing:
            return leftovers
        artifacts = [one for one in by_use if one.kind is Kind.ARTIFACT]
        actions = {one.key: planned.action for one in artifacts if (planned := plan.artifacts.get(ArtifactId(one.key)))}
        released = [one for one in artifacts if actions.get(one.key) is Action.RELEASE]
        return [*leftovers, *released, *(one for one in artifacts if one.key not in actions)]
