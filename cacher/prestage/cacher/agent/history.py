"""What the agent did and why, bounded: for `explain` and for those who listen."""

from __future__ import annotations

import time
from collections import deque

from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.logs import log

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
