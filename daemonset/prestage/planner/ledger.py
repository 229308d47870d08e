"""What is promised so far: bytes of nodes and of namespaces. Nothing is ever promised beyond a limit.

A node's promises are the sizes of what is staged or kept there; what else lies there is the agent's to evict when room is
needed. Artifacts that share blobs are counted in full: they need less than that, never more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prestage.api.nodes import ENTRIES_MAX, Action
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.nodes import NodeState
from prestage.planner.plans import Reason

_ENDLESS = 2**62
_CLASS = 100_000_000
_CLASSES = {Trust.BOUND: 9, Trust.WAITING: 8, Trust.DECLARED: 7, Trust.FOLLOW_ON: 6, Trust.STANDING: 1}


def priority_of(demand: Demand, wall: Wall) -> int:
    """For the node: a surer class is before a less sure one, whatever the pods' priorities."""
    ceiling = _CLASS - 1 if wall.max_priority is None else min(wall.max_priority, _CLASS - 1)
    return _CLASSES[demand.trust] * _CLASS + max(0, min(demand.priority, ceiling))


@dataclass(slots=True)
class Promise:
    """One artifact on one node."""

    action: Action
    size_bytes: int
    priority: int
    ready_by: float | None


@dataclass(slots=True)
class Book:
    """Of one node. `guarded`: last copies of what is wanted, not promised yet; they keep their room until they are let go."""

    node: NodeState
    promises: dict[str, Promise] = field(default_factory=dict)
    promised_bytes: int = 0
    guarded: dict[str, int] = field(default_factory=dict)
    guarded_bytes: int = 0
    free_bytes: int = 0
    """What may still be promised without losing a last copy. A node that reported no budget yet has room for all."""

    def __post_init__(self) -> None:
        self.free_bytes = _ENDLESS if self.node.budget_bytes is None else self.node.budget_bytes

    def guard(self, artifact: str, size_bytes: int) -> None:
        """Keep its room."""
        if artifact not in self.promises and artifact not in self.guarded:
            self.guarded[artifact] = size_bytes
            self.guarded_bytes += size_bytes
            self._take(size_bytes)

    def let_go(self, artifact: str) -> None:
        """Its room may be promised to others."""
        size_bytes = self.guarded.pop(artifact, 0)
        self.guarded_bytes -= size_bytes
        self._take(-size_bytes)

    def promise(self, artifact: str, promise: Promise) -> None:
        """A new one; what was guarded of it is part of that."""
        self.let_go(artifact)
        self.promises[artifact] = promise
        self.promised_bytes += promise.size_bytes
        self._take(promise.size_bytes)

    def _take(self, size_bytes: int) -> None:
        if self.node.budget_bytes is not None:
            self.free_bytes -= size_bytes


class Ledger:
    """Of all nodes and namespaces."""

    def __init__(self, nodes: Iterable[NodeState], walls: Mapping[str, Wall]) -> None:
        self.books = {node.name: Book(node) for node in sorted(nodes, key=lambda node: node.name)}
        self.near: dict[str, set[str]] = defaultdict(set)
        """By artifact, the nodes that hold it in whatever state, were told to or are promised it."""
        for name, book in self.books.items():
            for artifact in (*book.node.held, *book.node.planned):
                self.near[artifact].add(name)
        self._walls = walls
        self._charged: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._bytes_at: dict[tuple[str, str], int] = defaultdict(int)
        self._bytes: dict[str, int] = defaultdict(int)

    def wall(self, namespace: str) -> Wall:
        """Its walls."""
        return self._walls.get(namespace, Wall())

    def refusal(self, demand: Demand, node: str) -> Reason | None:
        """Why it cannot be promised there; None: it can."""
        book = self.books[node]
        if demand.artifact not in book.promises:
            budget = book.node.budget_bytes
            if budget is not None and demand.size_bytes > budget:
                return Reason.TOO_LARGE
            if len(book.promises) >= ENTRIES_MAX:
                return Reason.TOO_MANY
        if (walled := self.walled(demand, node)) is not None:
            return walled
        if demand.artifact in book.promises:
            return None
        own = book.guarded.get(demand.artifact, 0)
        return Reason.NODE_FULL if demand.size_bytes > book.free_bytes + own else None

    def walled(self, demand: Demand, node: str) -> Reason | None:
        """Which of its namespace's walls is in the way."""
        if demand.artifact in self._charged[demand.namespace][node]:
            return None
        wall = self.wall(demand.namespace)
        if wall.bytes_per_node is not None and self._bytes_at[demand.namespace, node] + demand.size_bytes > wall.bytes_per_node:
            return Reason.NAMESPACE_NODE_BYTES
        if wall.bytes is not None and self._bytes[demand.namespace] + demand.size_bytes > wall.bytes:
            return Reason.NAMESPACE_BYTES
        return None

    def promise(self, demand: Demand, node: str, action: Action) -> Reason | None:
        """Write it down; None: done. A promise that is there already becomes the more urgent of the two."""
        if (refused := self.refusal(demand, node)) is not None:
            return refused
        book = self.books[node]
        priority = priority_of(demand, self.wall(demand.namespace))
        found = book.promises.get(demand.artifact)
        if found is None:
            book.promise(demand.artifact, Promise(action, demand.size_bytes, priority, demand.ready_by))
            self.near[demand.artifact].add(node)
        else:
            if action is Action.STAGE:
                found.action = action
            if priority > found.priority:
                found.priority, found.ready_by = priority, demand.ready_by
        charged = self._charged[demand.namespace][node]
        if demand.artifact not in charged:
            charged.add(demand.artifact)
            self._bytes_at[demand.namespace, node] += demand.size_bytes
            self._bytes[demand.namespace] += demand.size_bytes
        return None
