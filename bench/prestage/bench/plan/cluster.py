"""A cluster as a fluid: nodes with a store, accelerators and a link, and what all take from the origins together.

What a pod waits for goes through a node's link before what is staged; of one kind all share alike. The origins' limit is shared
max-min between nodes, waiting pods first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Item:
    """An artifact on a node, or on its way there. `left_bytes` 0: warm."""

    app: str
    size_bytes: int
    left_bytes: float
    is_wanted: bool = False
    """A pod waits for it."""
    is_kept: bool = True
    """False: streamed beside the budget, gone with the last pod."""
    pods: int = 0
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
    done: Callable[[Node, Item], None] = lambda node, item: None
    now: float = 0.0
    fetched_bytes: float = 0.0
    wasted_bytes: float = 0.0
    """Staged or begun, and gone before anybody used it."""
    _active: dict[str, Node] = field(default_factory=dict)
    _rates: list[tuple[Node, Item, float]] = field(default_factory=list)
    _is_stale: bool = True

    def add(self, node: Node, app: str, size_bytes: int, *, is_kept: bool = True) -> Item:
        """It begins to come. The caller made room."""
        item = node.items[app] = Item(app, size_bytes, float(size_bytes), is_kept=is_kept, used_at=self.now)
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
        self.touch()

    def touch(self) -> None:
        """Rates change."""
        self._is_stale = True

    def holders(self, app: str) -> Iterator[Node]:
        """Nodes where it is whole."""
        return (node for node in self.nodes if node.is_warm(app))

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
        wanted = {name: [one for one in node.coming.values() if one.is_wanted] for name, node in self._active.items()}
        first = _max_min({n: self._active[n].link_bytes_per_s for n, own in wanted.items() if own}, self.origin_bytes_per_s)
        rest = self.origin_bytes_per_s - sum(first.values())
        staged = {name: list(node.coming.values()) for name, node in self._active.items() if name not in first}
        second = _max_min({name: self._active[name].link_bytes_per_s for name in staged}, rest)
        self._rates = [
            (self._active[name], one, rate / len(own))
            for rates, items in ((first, wanted), (second, staged))
            for name, rate in rates.items()
            for own in (items[name],)
            for one in own
        ]


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
