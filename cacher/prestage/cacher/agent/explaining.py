"""Why an artifact is here, or is not: sentences from the store's state, its stage and what was done about it."""

from __future__ import annotations

import datetime

from prestage.cacher.agent.decisions import Entry
from prestage.cacher.agent.messages import Explained, StageView
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import NotFound
from prestage.cacher.store.budget import shown
from prestage.cacher.store.holds import described
from prestage.cacher.store.store import Store


def explain(
    store: Store,
    artifact: ArtifactId | None,
    ref: str | None,
    stage: StageView | None,
    history: list[Entry],
    *,
    planned: str | None = None,
) -> Explained:
    """Reads the store; blocks. `planned`: what the cluster's plan says of it."""
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
    if state == "absent":
        why += _once(history)
    elif state == "staged":
        why += [_staged(entry) for entry in history[::-1] if entry["event"] == "staged"][:1]
    if planned is not None:
        why.append(planned)
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


def _once(history: list[Entry]) -> list[str]:
    """It was here: since when, why not any more."""
    gone = next((entry for entry in history[::-1] if entry["event"] == "evicted"), None)
    if gone is None:
        return []
    came = [entry for entry in history if entry["event"] == "staged" and _at(entry) <= _at(gone)]
    return [*map(_staged, came[-1:]), f"it was evicted at {_moment(gone)} {gone.get('why', '')}".rstrip()]


def _staged(entry: Entry) -> str:
    fetched, seconds = entry.get("fetched_bytes"), entry.get("seconds")
    how = f": {shown(int(fetched))} fetched in {seconds} s" if isinstance(fetched, int) and isinstance(seconds, float) else ""
    return f"it was staged at {_moment(entry)}{how}"


def _at(entry: Entry) -> float:
    at = entry["at"]
    return float(at) if isinstance(at, int | float) else 0.0


def _moment(entry: Entry) -> str:
    return datetime.datetime.fromtimestamp(_at(entry), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
