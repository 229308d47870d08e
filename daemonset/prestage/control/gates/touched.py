"""Which pods a change concerns, so that one change among thousands of pods is a look at few of them.

    pod            itself; where it leaves room: those that want what its node holds; where it gives up its turn: all
    NodeCache      those whose artifacts are told otherwise there
    Artifact       those of the templates that got it
    ReplicaSet     those that were seen before it
    Node           all, unless it was a heartbeat

What this leaves out (a backlog that grew, room that was taken, time) is found by whoever looks at all of them now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from prestage.kube.mirror import Key
from prestage.kube.news import News

Use = tuple[str, str, str, str]
"""A template's uid and hash, alias and ref: what a record says the artifact of."""


class Touched(News):
    """Set while there are pods to look at."""

    def __init__(self) -> None:
        super().__init__()
        self._pods: set[Key] = set()
        self._all = False

    def add(self, pods: Set[Key] | None) -> None:
        """None: all."""
        if pods is None:
            self._all = True
        elif pods:
            self._pods |= pods
        else:
            return
        self.set()

    @property
    def pods(self) -> Set[Key] | None:
        """Those that wait to be looked at; None: all."""
        return None if self._all else self._pods

    def take(self) -> Set[Key] | None:
        """What was added since the last time; None: all."""
        taken = self.pods
        self._pods, self._all = set(), False
        self.clear()
        return taken


class Askers:
    """Pods by what their templates ask for. A pod whose ReplicaSet is not seen yet waits for it."""

    def __init__(self) -> None:
        self._by_use: dict[Use, set[Key]] = {}
        self._uses: dict[Key, tuple[Use, ...]] = {}
        self._waiting: dict[Key, set[Key]] = {}
        self._owner: dict[Key, Key] = {}

    def put(self, pod: Key, uses: Iterable[Use]) -> None:
        """What it asks for now."""
        uses = tuple(uses)
        if self._uses.get(pod) == uses:
            return
        self.drop(pod)
        self._uses[pod] = uses
        for use in uses:
            self._by_use.setdefault(use, set()).add(pod)

    def wait(self, pod: Key, owner: str) -> None:
        """`owner`: the name of its ReplicaSet."""
        self.drop(pod)
        self._owner[pod] = pod[0], owner
        self._waiting.setdefault((pod[0], owner), set()).add(pod)

    def uses(self, pod: Key) -> tuple[Use, ...]:
        """What it asks for, as far as is known."""
        return self._uses.get(pod, ())

    def drop(self, pod: Key) -> None:
        """It is gone, or asks for nothing."""
        for use in self._uses.pop(pod, ()):
            _without(self._by_use, use, pod)
        if (owner := self._owner.pop(pod, None)) is not None:
            _without(self._waiting, owner, pod)

    def of(self, uses: Iterable[Use]) -> set[Key]:
        """Those that ask for any of these."""
        return set[Key]().union(*(self._by_use.get(use, ()) for use in uses))

    def waiting_for(self, replica_set: Key) -> Set[Key]:
        """Those that were seen before it."""
        return frozenset(self._waiting.get(replica_set, ()))


def _without(index: dict[Use, set[Key]] | dict[Key, set[Key]], key: Use | Key, pod: Key) -> None:
    held = index[key]  # type: ignore[index]  # the caller has both of one kind
    held.discard(pod)
    if not held:
        del index[key]  # type: ignore[arg-type]  # as above
