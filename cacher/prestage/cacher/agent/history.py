"""What the agent did and why, bounded: for `explain` and for those who listen. What it decided outlives it (decisions.py)."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import merge

from prestage.cacher.agent.decisions import Entry
from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.cacher.staging import Staged

__all__ = ["PASSING", "REMEMBERED", "Entry", "History", "Tally"]

REMEMBERED = 2000
PASSING = 500
"""Of what is no decision: holds and mounts come and go with pods, and say themselves what they are."""
DECISIONS = frozenset({"staged", "stage_failed", "evicted", "damaged", "healing", "paused", "resumed"})


class History:
    """The last decisions. On the loop. `before`: of an agent before this one; `keep`: told of each decision."""

    def __init__(self, feed: Feed, before: Iterable[Entry] = (), keep: Callable[[Entry], None] = lambda entry: None) -> None:
        self._decided: deque[Entry] = deque(before, maxlen=REMEMBERED)
        self._passing: deque[Entry] = deque(maxlen=PASSING)
        self._keep = keep
        self.feed = feed
        """Everything, as it happens."""

    def add(self, event: str, *, artifact: str | None = None, ref: str | None = None, **fields: str | int | float | None) -> None:
        """Remember, log and tell."""
        entry: Entry = {"at": time.time(), "event": event, "artifact": artifact, "ref": ref, **fields}
        if event in DECISIONS:
            self._decided.append(entry)
            self._keep(entry)
        else:
            self._passing.append(entry)
        log(event, fields={"artifact": artifact, "ref": ref, **fields})
        self.feed.publish(dict(entry))

    def about(self, artifact: str | None, ref: str | None) -> list[Entry]:
        """What concerned it, oldest first."""
        return [
            entry
            for entry in merge(self._decided, self._passing, key=lambda entry: float(entry["at"] or 0.0))
            if (artifact is not None and entry.get("artifact") == artifact) or (ref is not None and entry.get("ref") == ref)
        ]

    def artifact_of(self, ref: str) -> str | None:
        """What it stood for when it was last staged here, though nothing of it is here any more."""
        found = (one.get("artifact") for one in reversed(self._decided) if one.get("ref") == ref and one["event"] == "staged")
        artifact = next(found, None)
        return artifact if isinstance(artifact, str) else None


@dataclass(slots=True)
class Tally:
    """Counted since the start, for the metrics."""

    ended: Counter[str] = field(default_factory=Counter)
    """Stages, by `done` or the kind of their error."""
    bytes_by_source: Counter[str] = field(default_factory=Counter)
    evicted_bytes: int = 0
    damaged: int = 0
    """Blobs that were found wrong."""
    scrubbed_bytes: int = 0

    def stage(self, outcome: Staged | PrestageError | None) -> None:
        """One stage ended."""
        if isinstance(outcome, Staged):
            self.ended["done"] += 1
            self.bytes_by_source.update(outcome.bytes_by_source)
        elif outcome is not None:
            self.ended[outcome.kind] += 1
