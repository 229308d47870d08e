"""What a consumer of changes knows: it fails on a change that contradicts what it was told before."""

from __future__ import annotations

from prestage.kube.mirror import Appeared, Change, Changed, Synced
from prestage.kube.ports import Object, name_of, uid_of, version_of


class Replay:
    """`take` every change of one follower, of one namespace."""

    def __init__(self) -> None:
        self.known: dict[str, Object] = {}
        self.told: list[Change] = []

    def take(self, change: Change) -> None:
        self.told.append(change)
        if isinstance(change, Synced):
            return
        name = name_of(change.object)
        if isinstance(change, Appeared):
            assert name not in self.known, "appeared twice"
            self.known[name] = change.object
        elif isinstance(change, Changed):
            assert version_of(self.known[name]) == version_of(change.before), "a change from something never told"
            assert version_of(change.before) != version_of(change.object), "told twice"
            self.known[name] = change.object
        else:
            assert uid_of(self.known.pop(name)) == uid_of(change.object)

    @property
    def versions(self) -> dict[str, str]:
        """By name."""
        return {name: version_of(one) for name, one in self.known.items()}
