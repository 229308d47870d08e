"""Why an artifact is here, or is not: sentences from the store's state, its stage and what was done about it."""

from __future__ import annotations

from prestage.cacher.agent.history import Entry
from prestage.cacher.agent.messages import Explained, StageView
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import NotFound
from prestage.cacher.store.budget import shown
from prestage.cacher.store.holds import described
from prestage.cacher.store.store import Store


def explain(
    store: Store, artifact: ArtifactId | None, ref: str | None, stage: StageView | None, history: list[Entry]
) -> Explained:
    """Reads the store; blocks."""
    state, why = "absent", list[str]()
    if artifact is not None:
        try:
            state = store.state(artifact)
            why += _kept(store, artifact, state)
        except NotFound:
            why.append("it is not in this store")
    else:
        why.append("nothing of that name was staged here")
    if stage is not None and stage.state not in ("done", "failed"):
        state = "staging" if state in ("absent", "partial") else state
        why.append(_going(stage))
    elif stage is not None and stage.problem is not None:
        why.append(f"staging it failed: {stage.problem.message}")
    why += [_told(entry) for entry in history[-1:] if entry["event"] == "evicted" and state == "absent"]
    return Explained(artifact, ref, state, why, stage, history[-50:])


def _kept(store: Store, artifact: ArtifactId, state: str) -> list[str]:
    words = {
        "staged": "it is whole and verified",
        "partial": "some of its bytes are here; staging it goes on with them",
        "damaged": "a blob of it was found wrong and is in quarantine; staging it fetches just that one",
    }
    holds = store.holds(artifact)
    if holds:
        return [words[state], f"it stays because of {described(holds)}"]
    ahead = store.room.goes_after(artifact)
    if ahead is None:
        return [words[state]]
    return [words[state], f"nobody holds it: it would go once {shown(ahead)} more are needed than are free"]


def _going(stage: StageView) -> str:
    if stage.state == "running" and stage.total:
        return f"it is being staged: {stage.bytes / stage.total:.0%} of {shown(stage.total)} at {shown(stage.bytes_per_s)}/s"
    if stage.state == "waiting" and stage.problem is not None:
        return f"its stage failed and is tried again soon: {stage.problem.message}"
    return {"running": "it is being staged", "queued": "its stage waits for others"}.get(stage.state, "its stage is paused")


def _told(entry: Entry) -> str:
    return f"it was evicted {entry['why']}"
