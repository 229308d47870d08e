"""What StagedModels, CachePolicies and StorePools say of themselves: from a plan and what it was made from. Pure.

Resolved      the broker said which artifact it is; else its refusal
Authorized    resolved with the namespace's own credentials, and verified daily; False where they are refused
Warm          on every node that should have it
Ready         all of them (Warm only while somebody wants it)
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prestage.api.artifacts import SourceAccess
from prestage.api.conditions import summed, with_condition
from prestage.api.models import ResolvedArtifact, StagedModel, StagedModelStatus
from prestage.api.nodes import Action, ErrorClass, State, Step
from prestage.api.policies import CachePolicy, CachePolicyStatus, StorePool, StorePoolStatus
from prestage.api.selecting import selects
from prestage.api.texts import duration_s
from prestage.api.values import Condition, ConditionStatus, NodeCounts
from prestage.calendar.windows import again
from prestage.control.demand.records import Known
from prestage.control.demand.resolving import Failure
from prestage.control.planning.access import authorized
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Plan

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class Spread:
    """Where one artifact is. Names of nodes are not in it: statuses are read by tenants."""

    warm: int = 0
    staging: int = 0
    wanted: int = 0
    wanted_warm: int = 0
    failed: tuple[tuple[str, str], ...] = field(default=())
    """Class and code, where it is wanted and failed."""
    step: Step | None = None
    """Of its stages, the one that is least far."""


def spreads(plan: Plan, nodes: Iterable[NodeState]) -> dict[str, Spread]:
    """Of every artifact that is somewhere, or should be."""
    count = defaultdict[str, list[int]](lambda: [0, 0, 0, 0])
    failed = defaultdict[str, set[tuple[str, str]]](set)
    steps = defaultdict[str, set[Step]](set)
    for node in nodes:
        made = plan.nodes.get(node.name)
        wanted = {one.artifact for one in made.assignments if one.action is Action.STAGE} if made is not None else set()
        for artifact in wanted:
            count[artifact][2] += 1
            count[artifact][3] += node.is_warm(artifact)
        for artifact, held in node.held.items():
            count[artifact][0] += held.state is State.WARM
            count[artifact][1] += held.state is State.STAGING
            if held.state is State.STAGING and held.step is not None:
                steps[artifact].add(held.step)
            if held.state is State.FAILED and artifact in wanted:
                failed[artifact].add((str(held.error_class or ErrorClass.BUG), held.error_code or "Failed"))
    return {
        artifact: Spread(warm, staging, wanted, wanted_warm, tuple(sorted(failed[artifact])), least_far(steps[artifact]))
        for artifact, (warm, staging, wanted, wanted_warm) in count.items()
    }


def least_far(steps: Iterable[Step | None]) -> Step | None:
    """None where there is none."""
    found = {step for step in steps if step is not None}
    return next((step for step in Step if step in found), None)


def model_status(
    model: StagedModel,
    known: Known | None,
    failure: Failure | None,
    spread: Spread,
    now: datetime.datetime,
    *,
    access: Sequence[SourceAccess] = (),
) -> StagedModelStatus:
    """What it should say; equal to what it says where nothing is new. `access`: of its Artifact."""
    before = model.status or StagedModelStatus()
    generation = model.metadata.generation
    conditions: Sequence[Condition] = before.conditions or ()

    def say(kind: str, status: ConditionStatus, reason: str, message: str = "") -> None:
        nonlocal conditions
        conditions = with_condition(conditions, kind, status, reason=reason, message=message, now=now, generation=generation)

    if known is not None:
        say("Resolved", TRUE, "Resolved")
        say("Authorized", *authorized(access, f"ref:{model.metadata.name}", now))
    elif failure is not None:
        reason = failure.code or str(failure.error_class)
        say("Resolved", FALSE, reason, failure.text)
        if failure.error_class is ErrorClass.DENIED:
            say("Authorized", FALSE, reason, failure.text)
        else:
            say("Authorized", UNKNOWN, "NotResolved", "it is known once the source is resolved")
    else:
        say("Resolved", UNKNOWN, "Resolving", "the broker is being asked")
        say("Authorized", UNKNOWN, "Resolving", "the broker is being asked")
    say("Warm", *_warm(spread, is_known=known is not None))
    parts = ("Resolved", "Authorized", *(("Warm",) if spread.wanted else ()))
    say("Ready", *summed(conditions, parts))
    artifact = None
    if known is not None:
        artifact = ResolvedArtifact(
            digest=known.artifact, revision=known.revision or _revision(before, known), files=known.files, size=known.size_bytes
        )
    return StagedModelStatus(
        observed_generation=generation,
        artifact=artifact,
        newer=before.newer,
        nodes=NodeCounts(warm=spread.warm, staging=spread.staging, wanted=spread.wanted),
        conditions=list(conditions),
    )


def policy_status(policy: CachePolicy, namespaces: Iterable[Mapping[str, str]], now: datetime.datetime) -> CachePolicyStatus:
    """`namespaces`: labels of those that are in."""
    found = sum(selects(policy.spec.namespace_selector, labels) for labels in namespaces)
    before = policy.status.conditions if policy.status is not None else None
    reason, message = ("Applied", "") if found else ("NoNamespace", "no namespace with prestage.dev/enabled matches the selector")
    conditions = with_condition(
        before, "Ready", TRUE, reason=reason, message=message, now=now, generation=policy.metadata.generation
    )
    return CachePolicyStatus(observed_generation=policy.metadata.generation, namespaces=found, conditions=conditions)


def pool_status(pool: StorePool, nodes: Iterable[Mapping[str, str]], now: datetime.datetime) -> StorePoolStatus:
    """`nodes`: their labels."""
    found = sum(selects(pool.spec.node_selector, labels) for labels in nodes)
    before = pool.status.conditions if pool.status is not None else None
    said = (
        (TRUE, "Applied", "") if found else (FALSE, "NoNode", "no node matches nodeSelector: compare it with the nodes' labels")
    )
    for window in pool.spec.windows or ():
        try:
            again(window.schedule, window.time_zone, duration_s(window.duration))
        except ValueError as exc:
            said = FALSE, "BadWindow", f"window {window.name} is not heeded: {exc}"
    conditions = with_condition(
        before, "Ready", said[0], reason=said[1], message=said[2], now=now, generation=pool.metadata.generation
    )
    return StorePoolStatus(observed_generation=pool.metadata.generation, nodes=found, conditions=conditions)


def _warm(spread: Spread, *, is_known: bool) -> tuple[ConditionStatus, str, str]:
    if not is_known:
        return UNKNOWN, "NotResolved", "nothing is staged before the source is resolved"
    if spread.wanted == 0:
        return (TRUE, "Kept", "") if spread.warm else (FALSE, "NotWanted", "no pod asks for it, and no node holds it")
    if spread.wanted_warm >= spread.wanted:
        return TRUE, "Warm", ""
    if spread.failed:
        return FALSE, spread.failed[0][1], f"staging failed on a node: {' '.join(spread.failed[0])}; it is tried again"
    return FALSE, "Staging", f"warm on {spread.wanted_warm} of the {spread.wanted} nodes that should have it"


def _revision(before: StagedModelStatus, known: Known) -> str | None:
    same = before.artifact is not None and before.artifact.digest == known.artifact
    return before.artifact.revision if same and before.artifact is not None else None
