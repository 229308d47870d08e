"""The store's and the stages' values as messages."""

from __future__ import annotations

from prestage.cacher.agent.messages import PRIORITIES, Artifact, Problem, StageView, UsageView
from prestage.cacher.agent.stages import Stage
from prestage.cacher.errors import PrestageError
from prestage.cacher.store.budget import Usage
from prestage.cacher.store.store import Listing

_WORDS = {number: word for word, number in PRIORITIES.items()}


def usage_view(usage: Usage) -> UsageView:
    """For the wire."""
    return UsageView(usage.used, usage.reserved, usage.free, usage.margin, usage.limit, usage.room)


def artifact_view(row: Listing) -> Artifact:
    """For the wire."""
    holds = [
        {name: value if isinstance(value, (str, int, float)) else None for name, value in hold.items()} for hold in row.holds
    ]
    return Artifact(row.artifact, row.ref, row.files, row.bytes, row.state, holds, row.last_used)


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
        priority=_WORDS[int(stage.wish.priority)],
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
