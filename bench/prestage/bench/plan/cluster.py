"""A cluster as a fluid: nodes with a store, accelerators and a link, and what all take from the origins together.

What a pod waits for goes through a node's link before what is staged; of one kind all share alike, or one goes after the other
(`Serving`). The origins' limit is shared max-min between nodes, waiting pods first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Serving(StrEnum):
    """How a node's link serves artifacts of one kind."""

    ALIKE = "alike"
    """All share it, as several downloads of one machine do."""
    IN_TURN = "in turn"
    """One has all of it, as by our agent's engine: of what pods wait for the one with least left, a second of waiting counting as
    100 MB less; of what is staged the first that began."""


_AHEAD_BYTES_PER_S = 100e6


@dataclass(slots=True)
class Item:
    """An artifact on a node, or on its way there. `left_bytes` 0: warm."""

    app: str
    size_bytes: int
    left_bytes: float
    is_wanted: bool = False
    """A pod waits for it."""
    is_from_peer: bool = False
    """Another node had it when it began."""
    is_kept: bool = True
    """False: streamed beside the budget, gone with the last pod."""
    pods: int = 0
    began_at: float = 0.0
    used_at: float = 0.0
    is_used: bool = False
    waiting: list[int] = field(default_factory=list)
    """Starts that wait for it."""

    @property
    def is_warm(self) -> bool:
        """Whole."""
        return self.left_bytes <= 0


@dataclass(slots=True)
class Node:
    """One."""

    name: str
    budget_bytes: int
    link_bytes_per_s: float
    gpus: float
    items: dict[str, Item] = field(default_factory=dict)
    used_bytes: int = 0
    coming: dict[str, Item] = field(default_factory=dict)
    """Those of `items` that are not whole."""

    def is_warm(self, app: str) -> bool:
        """Whether it is whole there."""
        found = self.items.get(app)
        return found is not None and found.is_warm


@dataclass(slots=True)
class Cluster:
    """`done`: called with each artifact that became whole."""

    nodes: list[Node]
    origin_bytes_per_s: float = math.inf
    serving: Serving = Serving.ALIKE
    peer_bytes_per_s: float = 0.0
    """0: nothing comes from other nodes. Else what another node holds comes from there at no more than that: simulated, agents of
    this version ask origins alone."""
    done: Callable[[Node, Item], None] = lambda node, item: None
    now: float = 0.0
    fetched_bytes: float = 0.0
    wasted_bytes: float = 0.0
    """Staged or begun, and gone before anybody used it."""
    _held: dict[str, dict[str, Node]] = field(default_factory=dict)
    """By app, the nodes that have it or are at it."""
    _active: dict[str, Node] = field(default_factory=dict)
    _rates: list[tuple[Node, Item, float]] = field(default_factory=list)
    _is_stale: bool = True

    def add(self, node: Node, app: str, size_bytes: int, *, is_kept: bool = True) -> Item:
        """It begins to come. The caller made room."""
        item = node.items[app] = Item(app, size_bytes, float(size_bytes), is_kept=is_kept, began_at=self.now, used_at=self.now)
        item.is_from_peer = self.peer_bytes_per_s > 0 and any(True for _ in self.holders(app))
        self._held.setdefault(app, {})[node.name] = node
        if is_kept:
            node.used_bytes += size_bytes
        if size_bytes:
            node.coming[app] = item
            self._active[node.name] = node
        self.touch()
        return item

    def drop(self, node: Node, app: str) -> None:
        """It is gone."""
        item = node.items.pop(app)
        if item.is_kept:
            node.used_bytes -= item.size_bytes
        if not item.is_used:
            self.wasted_bytes += item.size_bytes - item.left_bytes
        node.coming.pop(app, None)
        del self._held[app][node.name]
        self.touch()

    def pause(self, node: Node, app: str) -> None:
        """It comes no further; what came is kept until its room is needed."""
        node.coming.pop(app, None)
        self.touch()

    def resume(self, node: Node, app: str) -> None:
        """It comes again."""
        if not node.items[app].is_warm and app not in node.coming:
            node.coming[app] = node.items[app]
            node.items[app].began_at = self.now
            self._active[node.name] = node
            self.touch()

    def remove(self, node: Node) -> None:
        """It is gone, and all that it had. No waste: nobody chose it."""
        wasted = self.wasted_bytes
        for app in list(node.items):
            self.drop(node, app)
        self.wasted_bytes = wasted
        self.nodes.remove(node)
        self._active.pop(node.name, None)

    def touch(self) -> None:
        """Rates change."""
        self._is_stale = True

    def holders(self, app: str) -> Iterator[Node]:
        """Nodes where it is whole."""
        return (node for node in self._held.get(app, {}).values() if node.is_warm(app))

    def with_any(self, app: str) -> Iterator[Node]:
        """Nodes that have it or are at it."""
        return iter(self._held.get(app, {}).values())

    def next_done(self) -> float:
        """When the next artifact becomes whole, if nothing changes."""
        self._share()
        return min((self.now + item.left_bytes / rate for _, item, rate in self._rates if rate > 0), default=math.inf)

    def advance(self, to: float) -> None:
        """Let that much time go by. Not beyond `next_done`."""
        self._share()
        whole = list[tuple[Node, Item]]()
        for node, item, rate in self._rates:
            moved = min(item.left_bytes, rate * (to - self.now))
            item.left_bytes -= moved
            self.fetched_bytes += moved
            if item.left_bytes <= 1.0:
                item.left_bytes = 0.0
                whole.append((node, item))
        self.now = to
        for node, item in whole:
            node.coming.pop(item.app, None)
            self.touch()
            self.done(node, item)

    def _share(self) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        self._active = {name: node for name, node in self._active.items() if node.coming}
        wanted, staged, links = dict[str, list[Item]](), dict[str, list[Item]](), dict[str, float]()
        self._rates = []
        for name, node in self._active.items():
            own = [one for one in node.coming.values() if one.is_wanted]
            served = self._served(own or list(node.coming.values()))
            each = node.link_bytes_per_s / len(served)
            self._rates += [(node, one, min(each, self.peer_bytes_per_s)) for one in served if one.is_from_peer]
            if asking := [one for one in served if not one.is_from_peer]:
                (wanted if own else staged)[name] = asking
                links[name] = each * len(asking)
        left = self.origin_bytes_per_s
        for asking_of in (wanted, staged):
            for name, rate in _max_min({name: links[name] for name in asking_of}, left).items():
                left = max(0.0, left - rate)
                self._rates += [(self._active[name], one, rate / len(asking_of[name])) for one in asking_of[name]]

    def _served(self, items: list[Item]) -> list[Item]:
        """Those that share a link now, of one kind."""
        if self.serving is Serving.ALIKE or len(items) < 2:
            return items
        return [min(items, key=_turn)]


def _turn(item: Item) -> tuple[float, str]:
    if not item.is_wanted:
        return item.began_at, item.app
    return item.left_bytes + item.began_at * _AHEAD_BYTES_PER_S, item.app


def _max_min(links: dict[str, float], limit: float) -> dict[str, float]:
    """Each its link, as far as the limit goes: the small ones in full, the rest alike."""
    if sum(links.values()) <= limit:
        return links
    made, left = dict[str, float](), max(0.0, limit)
    for number, (name, link) in enumerate(sorted(links.items(), key=lambda pair: pair[1])):
        made[name] = min(link, left / (len(links) - number))
        left -= made[name]
    return made


def evict(cluster: Cluster, node: Node, need_bytes: float, order: Iterable[str], *, saves: frozenset[str] = frozenset()) -> bool:
    """Make room; nothing that a pod uses or waits for goes. False: it is not enough, and nothing was done."""
    lacking = node.used_bytes + need_bytes - node.budget_bytes
    goes = list[str]()
    for app in order:
        if lacking <= 0:
            break
        item = node.items[app]
        if item.pods or item.waiting or app in saves or not item.is_kept:
            continue
        goes.append(app)
        lacking -= item.size_bytes
    if lacking > 0:
        return False
    for app in goes:
        cluster.drop(node, app)
    return True
