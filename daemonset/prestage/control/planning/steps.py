"""Which step stages are at, between plans: it makes no plan, and statuses say it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from prestage.api.nodes import State, Step
from prestage.control.podspec import entries, part
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object
from prestage.planner.nodes import NodeState


def steps_in(cache: Object) -> dict[str, str]:
    """Of a NodeCache: artifact to step."""
    held = entries(part(cache, "status"), "artifacts")
    return {str(one.get("digest")): str(one["step"]) for one in held if "step" in one}


def with_steps(nodes: Iterable[NodeState], caches: Mirror) -> list[NodeState]:
    """As their NodeCaches have them now; all else stays as the plan saw it."""
    return [_with_steps(one, caches.get(one.name)) if _is_busy(one) else one for one in nodes]


def _is_busy(node: NodeState) -> bool:
    return any(held.state is State.STAGING for held in node.held.values())


def _with_steps(node: NodeState, cache: Object | None) -> NodeState:
    known = {str(step) for step in Step}
    said = {artifact: Step(step) for artifact, step in steps_in(cache or {}).items() if step in known}
    held = {
        artifact: replace(one, step=said[artifact]) if one.state is State.STAGING and artifact in said else one
        for artifact, one in node.held.items()
    }
    return replace(node, held=held)
