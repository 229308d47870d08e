"""What the agent did and why, bounded: for `explain` and for those who listen."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.cacher.staging import Staged

REMEMBERED = 2000
Entry = dict[str, str | int | float | None]


class History:
    """The last decisions. On the loop."""

    def __init__(self, feed: Feed) -> None:
        self._entries: deque[Entry] = deque(maxlen=REMEMBERED)
        self.feed = feed
        """Everything, as it happens."""

    def add(self, event: str, *, artifact: str | None = None, ref: str | None = None, **fields: str | int | float | None) -> None:
        """Remember, log and tell."""
        entry: Entry = {"at": time.time(), "event": event, "artifact": artifact, "ref": ref, **fields}
        self._entries.append(entry)
        log(event, fields={"artifact": artifact, "ref": ref, **fields})
        self.feed.publish(dict(entry))

    def about(self, artifact: str | None, ref: str | None) -> list[Entry]:
        """What concerned it, oldest first."""
        return [
            entry
            for entry in self._entries
            if (artifact is not None and entry["artifact"] == artifact) or (ref is not None and entry["ref"] == ref)
        ]


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
