"""The store's and the stages' values as messages."""

from __future__ import annotations

from collections.abc import Mapping

from prestage.cacher.agent.messages import PRIORITIES, Artifact, PriorityWord, Problem, StageView, TreePart, TreeView, UsageView
from prestage.cacher.agent.stages import Stage
from prestage.cacher.errors import PrestageError
from prestage.cacher.store.budget import Usage
from prestage.cacher.store.holds import Mount
from prestage.cacher.store.mounted import MountTree
from prestage.cacher.store.store import Listing

WORDS: Mapping[int, PriorityWord] = {number: word for word, number in PRIORITIES.items()}
"""Of a priority."""


def usage_view(usage: Usage) -> UsageView:
    """For the wire."""
    return UsageView(usage.used, usage.reserved, usage.free, usage.margin, usage.limit, usage.room)


def artifact_view(row: Listing) -> Artifact:
    """For the wire."""
    holds = [
        {name: value if isinstance(value, (str, int, float)) else None for name, value in hold.items()} for hold in row.holds
    ]
    return Artifact(row.artifact, row.ref, row.files, row.bytes, row.state, holds, row.last_used)


def tree_view(found: MountTree) -> TreeView:
    """For the wire."""
    tree, plan = found.tree, found.tree.plan
    mount = plan.mount or Mount("", "")
    return TreeView(
        hold=tree.hold,
        path=str(tree.path),
        pod=mount.pod,
        target=mount.target,
        mount_path=mount.mount_path,
        flat=plan.is_flat,
        parts=[TreePart(part.name, part.artifact, part.repo or "", part.revision or "") for part in tree.parts],
        this_boot=found.this_boot,
        held_s=round(found.held_s, 1),
        own="" if tree.own is None else str(tree.own),
    )


def stage_view(stage: Stage) -> StageView:
    """For the wire."""
    progress = stage.feed.latest("progress") or {}
    outcome = stage.outcome
    problem = Problem(outcome.kind, outcome.message, outcome.hint) if isinstance(outcome, PrestageError) else None

    def number(name: str) -> int:
        value = progress.get(name, 0)
        return value if isinstance(value, int) else 0

    return StageView(
        id=stage.id,
        ref=stage.wish.ref.name,
        state=stage.state,
        priority=WORDS[int(stage.wish.priority)],
        keep=stage.is_kept,
        paused=stage.is_paused,
        since=stage.since,
        tries=stage.tries,
        waiting=stage.feed.readers,
        artifact=stage.artifact,
        bytes=number("bytes"),
        total=number("total"),
        bytes_per_s=number("bytes_per_s"),
        problem=problem,
    )
