"""Files that are being fetched now, each by one run: several artifacts that want one file at once fetch it once.

A run takes what nobody has, fetches that, gives it back, and only then waits for what others have: nobody waits while he holds,
so nobody waits for ever. Whoever waits lends his urgency to the one he waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prestage.cacher.transfer.limits import Priority


@dataclass(slots=True, eq=False)
class Claim:
    """One file in the hands of one run."""

    urge: Callable[[Priority], None]
    """Makes that run at least so urgent."""
    given_back: threading.Event = field(default_factory=threading.Event)


class Claims:
    """Who fetches which file (by `ingest.identity`). Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def take(self, identities: Iterable[str], urge: Callable[[Priority], None]) -> tuple[dict[str, Claim], dict[str, Claim]]:
        """(what is the caller's now, what somebody else has). Give the first back."""
        mine: dict[str, Claim] = {}
        theirs: dict[str, Claim] = {}
        with self._lock:
            for identity in identities:
                if (claim := self._held.get(identity)) is not None:
                    theirs[identity] = claim
                else:
                    mine[identity] = self._held[identity] = Claim(urge)
        return mine, theirs

    def give_back(self, mine: dict[str, Claim]) -> None:
        """Let others have them; idempotent."""
        with self._lock:
            for identity, claim in mine.items():
                if self._held.get(identity) is claim:
                    del self._held[identity]
                claim.given_back.set()
