"""What is promised so far: bytes of nodes and of namespaces. Nothing is ever promised beyond a limit.

A node's promises are the sizes of what is staged or kept there, from when until when; what else lies there is the agent's to
evict when room is needed. Artifacts that share blobs are counted in full: they need less than that, never more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

from prestage.api.nodes import Action
from prestage.planner.demands import Demand, Trust, Wall
from prestage.planner.likeness import Likeness, Parts
from prestage.planner.nodes import NodeState
from prestage.planner.places import Places
from prestage.planner.plans import Reason
from prestage.planner.roomiest import Roomiest
from prestage.planner.rooms import NOW, OPEN, Room, Span, uncovered

_NO_WALL = Wall()
_CLASS = 100_000_000
_CLASSES = {Trust.BOUND: 9, Trust.WAITING: 8, Trust.DECLARED: 7, Trust.FOLLOW_ON: 6, Trust.STANDING: 1}


def priority_of(demand: Demand, wall: Wall) -> int:
    """For the node: a surer class is before a less sure one, whatever the pods' priorities."""
    ceiling = _CLASS - 1 if wall.max_priority is None else min(wall.max_priority, _CLASS - 1)
    return _CLASSES[demand.trust] * _CLASS + max(0, min(demand.priority, ceiling))


def is_declared(priority: int) -> bool:
    """Whether a node was told so for a window, and for nothing that is surer."""
    return priority // _CLASS == _CLASSES[Trust.DECLARED]


@dataclass(slots=True)
class Promise:
    """One artifact on one node."""

    action: Action
    size_bytes: int
    priority: int
    ready_by: float | None
    namespace: str
    trust: Trust
    spans: list[Span]
    not_before: float | None = None
    """When the node is told; None: now."""
    is_kept: bool = False
    """It is there, and stays as long as there is room though its time is not yet."""

    @property
    def starts(self) -> float:
        """When its room is taken; -inf: now."""
        first = self.spans[0].starts
        return first if len(self.spans) == 1 else min(span.starts for span in self.spans)


class Book:
    """Of one node. `guarded`: last copies of what is wanted, not promised yet; they keep their room until they are let go.
    `touched`: told its name where what is free becomes another."""

    __slots__ = ("_touched", "guarded", "guarded_bytes", "lacking", "node", "promises", "room")

    def __init__(self, node: NodeState, touched: set[str]) -> None:
        self.node, self._touched = node, touched
        self.promises: dict[str, Promise] = {}
        self.lacking: dict[str, Promise] = {}
        """Those to be staged that are not there."""
        self.guarded: dict[str, int] = {}
        self.guarded_bytes = 0
        self.room = Room(math.inf if node.budget_bytes is None else node.budget_bytes)

    @property
    def free_bytes(self) -> float:
        """What may still be promised now without losing a last copy. A node that reported no budget yet has room for all."""
        return self.room.limit_bytes - self.room.now_bytes - self.guarded_bytes

    def guard(self, artifact: str, size_bytes: int) -> None:
        """Keep its room."""
        if artifact not in self.promises and artifact not in self.guarded:
            self.guarded[artifact] = size_bytes
            self.guarded_bytes += size_bytes
            self._touched.add(self.node.name)

    def let_go(self, artifact: str) -> None:
        """Its room may be promised to others."""
        if artifact in self.guarded:
            self.guarded_bytes -= self.guarded.pop(artifact)
            self._touched.add(self.node.name)

    def take(self, size_bytes: int, span: Span) -> None:
        """Promise room."""
        self.room.take(size_bytes, span)
        self._touched.add(self.node.name)

    def lacks_bytes(self, artifact: str, size_bytes: int, span: Span) -> float:
        """How much more would have to be free; 0 or less: it fits."""
        found = self.promises.get(artifact)
        spans = [span] if found is None else uncovered(found.spans, span)
        if not spans:
            return 0
        return self.room.lacks_bytes(size_bytes, spans, kept_bytes=self.guarded_bytes - self.guarded.get(artifact, 0))


def _free_bytes(books: Mapping[str, Book], node: str) -> float:
    """No method: a ledger that knew itself would wait, with its books, for a full collection."""
    return books[node].free_bytes


class Ledger:
    """Of all nodes and namespaces."""

    def __init__(
        self, nodes: Iterable[NodeState], walls: Mapping[str, Wall], now: float = 0.0, parts: Parts | None = None
    ) -> None:
        self.now = now
        nodes = sorted(nodes, key=lambda node: node.name)
        touched = set[str]()
        self.books = {node.name: Book(node, touched) for node in nodes}
        self.roomiest = Roomiest((node.name for node in nodes if node.takes_more), partial(_free_bytes, self.books), touched)
        self.near: dict[str, set[str]] = defaultdict(set)
        """By artifact, the nodes that hold it in whatever state, were told to or are promised it."""
        self.there: dict[str, set[str]] = defaultdict(set)
        """By artifact, the nodes that have it or are promised it."""
        for name, book in self.books.items():
            for artifact in (*book.node.held, *book.node.planned):
                self.near[artifact].add(name)
            for artifact in book.node.warm:
                self.there[artifact].add(name)
        self.likeness = Likeness(parts or Parts(), self.there)
        self.places = Places()
        self._walls = walls
        self._charges = defaultdict[tuple[str, str, str], list[Span]](list)
        self._rooms: dict[tuple[str, str | None], Room] = {}
        self._walled = {
            name
            for name, wall in walls.items()
            if not (wall.bytes is None and wall.bytes_per_node is None and wall.pinned is None)
        }
        """Namespaces of which something is limited."""
        self._pinned = {name: Room(wall.pinned) for name, wall in walls.items() if wall.pinned is not None}

    def wall(self, namespace: str) -> Wall:
        """Its walls."""
        return self._walls.get(namespace, _NO_WALL)

    def span_of(self, demand: Demand, starts: float | None = None) -> Span:
        """`starts` None, or not after now: from now on."""
        begins = -math.inf if starts is None or starts <= self.now else starts
        return OPEN if begins == -math.inf and demand.until is None else Span(begins, demand.until or math.inf)

    def refusal(self, demand: Demand, node: str, span: Span | None = None) -> Reason | None:
        """Why it cannot be promised there; None: it can."""
        span = span or self.span_of(demand)
        book = self.books[node]
        if demand.artifact not in book.promises:
            if demand.size_bytes > book.room.limit_bytes:
                return Reason.TOO_LARGE
            if len(book.promises) >= book.node.entries_max:
                return Reason.TOO_MANY
        if (walled := self.walled(demand, node, span)) is not None:
            return walled
        return Reason.NODE_FULL if book.lacks_bytes(demand.artifact, demand.size_bytes, span) > 0 else None

    def walled(self, demand: Demand, node: str, span: Span) -> Reason | None:
        """Which of its namespace's walls is in the way."""
        if demand.namespace not in self._walled:
            return None
        spans = uncovered(self._charges[demand.namespace, node, demand.artifact], span)
        if not spans:
            return None
        if self._room(demand.namespace, node).lacks_bytes(demand.size_bytes, spans) > 0:
            return Reason.NAMESPACE_NODE_BYTES
        if self._room(demand.namespace, None).lacks_bytes(demand.size_bytes, spans) > 0:
            return Reason.NAMESPACE_BYTES
        pinned = self._pinned.get(demand.namespace) if demand.trust is Trust.DECLARED else None
        if pinned is not None and pinned.lacks_bytes(demand.size_bytes, spans) > 0:
            return Reason.NAMESPACE_PINNED
        return None

    def promise(self, demand: Demand, node: str, action: Action, span: Span | None = None) -> Reason | None:
        """Write it down; None: done. A promise that is there already becomes the more urgent of the two."""
        span = span or self.span_of(demand)
        if (refused := self.refusal(demand, node, span)) is not None:
            return refused
        book = self.books[node]
        priority = priority_of(demand, self.wall(demand.namespace))
        found = book.promises.get(demand.artifact)
        if found is None:
            made = Promise(action, demand.size_bytes, priority, demand.ready_by, demand.namespace, demand.trust, [])
            found = book.promises[demand.artifact] = made
            self.near[demand.artifact].add(node)
            self.there[demand.artifact].add(node)
        else:
            if action is Action.STAGE:
                found.action = action
            if action is Action.KEEP and found.not_before is not None:
                found.is_kept = True
            elif priority > found.priority:
                found.priority, found.ready_by = priority, demand.ready_by
                found.namespace, found.trust = demand.namespace, demand.trust
        if found.action is Action.STAGE and not book.node.is_warm(demand.artifact):
            book.lacking[demand.artifact] = found
        self._take(book, demand.artifact, found, span)
        self._charge(demand, node, span)
        return None

    def spacious(self, copies: Iterable[Iterable[Demand]]) -> set[str]:
        """Namespaces whose walls for all nodes together are in nobody's way, whichever of its demands each copy is kept for."""
        sizes = defaultdict[str, int](int)
        for demands in copies:
            for name, size_bytes in {one.namespace: one.size_bytes for one in demands if one.namespace in self._walled}.items():
                sizes[name] += size_bytes
        return {name for name, size_bytes in sizes.items() if not self._binds(name, size_bytes)}

    def _binds(self, namespace: str, size_bytes: int) -> bool:
        rooms = [self._room(namespace, None), *filter(None, [self._pinned.get(namespace)])]
        return any(room.lacks_bytes(size_bytes, (NOW,)) > 0 for room in rooms)

    def has_room_for(self, book: Book, demands: Sequence[Demand], spacious: Set[str]) -> bool:
        """Whether all of them may be kept there, so that nothing has to be asked of each. False: it has to be. `spacious`: of
        all that is to be kept anywhere."""
        if len(book.promises) + len(demands) > book.node.entries_max:
            return False
        sizes = defaultdict[str, int](int)
        for one in demands:
            if one.namespace in self._walled:
                sizes[one.namespace] += one.size_bytes
        name = book.node.name
        if not sizes.keys() <= spacious or any(self._room(one, name).lacks_bytes(sizes[one], (NOW,)) > 0 for one in sizes):
            return False
        guarded = book.guarded_bytes - sum(book.guarded.get(one.artifact, 0) for one in demands)
        return book.room.now_bytes + guarded + sum(one.size_bytes for one in demands) <= book.room.limit_bytes

    def keep(self, demand: Demand, book: Book) -> None:
        """It stays, now; `has_room_for` was asked. No wall is charged: with all that is to be kept none is in the way."""
        found = book.promises.get(demand.artifact)
        if found is None:
            made = Promise(Action.KEEP, demand.size_bytes, 0, demand.ready_by, demand.namespace, demand.trust, [NOW])
            book.promises[demand.artifact] = made
            book.let_go(demand.artifact)
            book.take(demand.size_bytes, NOW)
        else:
            found.is_kept = True
            self._take(book, demand.artifact, found, NOW)

    def hasten(self, node: str, artifact: str) -> bool:
        """Its room from now on, not only from its start; False: others have it."""
        book = self.books[node]
        found = book.promises[artifact]
        if found.starts == -math.inf:
            return True
        span = Span(-math.inf, found.starts)
        if book.lacks_bytes(artifact, found.size_bytes, span) > 0:
            return False
        one = Demand("", artifact, found.size_bytes, found.namespace, found.trust)
        if self.walled(one, node, span) is not None:
            return False
        self._take(book, artifact, found, span)
        self._charge(one, node, span)
        return True

    def _take(self, book: Book, artifact: str, promise: Promise, span: Span) -> None:
        if span.starts == -math.inf:
            book.let_go(artifact)
        for piece in uncovered(promise.spans, span):
            book.take(promise.size_bytes, piece)
            promise.spans.append(piece)

    def _charge(self, demand: Demand, node: str, span: Span) -> None:
        namespace = demand.namespace
        if namespace not in self._walled:
            return
        rooms = [self._room(namespace, node), self._room(namespace, None)]
        if demand.trust is Trust.DECLARED and namespace in self._pinned:
            rooms.append(self._pinned[namespace])
        charge = self._charges[namespace, node, demand.artifact]
        for piece in uncovered(charge, span):
            for room in rooms:
                room.take(demand.size_bytes, piece)
            charge.append(piece)

    def _room(self, namespace: str, node: str | None) -> Room:
        found = self._rooms.get((namespace, node))
        if found is None:
            wall = self.wall(namespace)
            limit = wall.bytes if node is None else wall.bytes_per_node
            found = self._rooms[namespace, node] = Room(math.inf if limit is None else limit)
        return found
