"""What others do, each with the order in which a node lets go: none, LRU, LFU, GDSF, a static list, cron only; and the bounds:
Belady by size, and the one who knows the future and fetches ahead."""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from prestage.bench.plan.cluster import Cluster, Node, evict
from prestage.bench.plan.simulate import Run
from prestage.bench.plan.traces import Announcement, Start

_HALF_LIFE_S = 72 * 3600.0


class Reactive:
    """Fetches what pods wait for, and lets go by an order. LRU, as the kubelet does with images."""

    def begin(self, run: Run) -> None:
        """Nothing."""

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """By the order."""
        self.counted(run, node, start)
        return evict(run.cluster, node, start.size_bytes, self.order(run, node))

    def order(self, run: Run, node: Node) -> Iterable[str]:
        """What goes first."""
        return sorted(node.items, key=lambda app: (node.items[app].used_at, app))

    def counted(self, run: Run, node: Node, start: Start) -> None:
        """A start that found nothing."""

    def told(self, run: Run, said: Announcement) -> None:
        """Nobody listens."""

    def changed(self, run: Run, node: Node) -> None:
        """Nothing."""


class NoCache(Reactive):
    """B0: pulled at each start."""

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """Nothing is kept."""
        return False


class Frequency(Reactive):
    """B2: what was started least goes first, with a half-life of three days."""

    def __init__(self) -> None:
        self._counts = defaultdict[str, tuple[float, float]](lambda: (0.0, 0.0))
        self._seen = 0

    def order(self, run: Run, node: Node) -> Iterable[str]:
        """By decayed counts."""
        self._count(run)
        return sorted(node.items, key=lambda app: (self.weight(app, run.now), app))

    def weight(self, app: str, now: float) -> float:
        """Starts, decayed."""
        count, at = self._counts[app]
        return count * math.exp2(-(now - at) / _HALF_LIFE_S)

    def _count(self, run: Run) -> None:
        while self._seen < len(run.starts) and run.starts[self._seen].time_s <= run.now:
            one = run.starts[self._seen]
            self._counts[one.app] = self.weight(one.app, one.time_s) + 1.0, one.time_s
            self._seen += 1


class GreedyDual(Frequency):
    """B3: GDSF, the cost of a miss being the wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = defaultdict[str, float](float)
        self._since: dict[tuple[str, str, float], float] = {}

    def order(self, run: Run, node: Node) -> Iterable[str]:
        """By inflation + frequency x cost / size."""
        self._count(run)

        def value(app: str) -> float:
            item = node.items[app]
            key = node.name, app, item.used_at
            since = self._since.setdefault(key, self._clock[node.name])
            cost_s = item.size_bytes / node.link_bytes_per_s + 1.0
            return since + self.weight(app, run.now) * cost_s / max(1, item.size_bytes)

        ranked = sorted(node.items, key=lambda app: (value(app), app))
        for app in ranked[:1]:
            self._clock[node.name] = value(app)
        return ranked


class Static(Reactive):
    """B4: a list for all nodes, the most started ones before the measured time that fit; nothing else is kept. `bypass`: what is
    not listed runs without taking room, as if a pod needed no files on the disk."""

    def __init__(self, until_s: float, *, bypass: bool) -> None:
        self._until_s, self._bypass = until_s, bypass
        self._counts = Counter[str]()

    def begin(self, run: Run) -> None:
        """They are there from the beginning."""
        self._counts = counts = Counter(one.app for one in run.starts if one.time_s < self._until_s)
        sizes = {one.app: one.size_bytes for one in run.starts}
        for node in run.cluster.nodes:
            for app, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
                if node.used_bytes + sizes[app] <= node.budget_bytes:
                    run.cluster.add(node, app, sizes[app]).left_bytes = 0.0
                    node.coming.pop(app, None)

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """What is started least goes first."""
        order = sorted(node.items, key=lambda app: (self._counts[app], app))
        return not self._bypass and evict(run.cluster, node, start.size_bytes, order)


class Cron(Reactive):
    """B6: what is said is staged 30 minutes before, whatever its size; LRU else."""

    def told(self, run: Run, said: Announcement) -> None:
        """One alarm, on the node that has it or has used the least."""
        run.at(said.ready_s - 1800.0, lambda: self._stage(run, said))

    def _stage(self, run: Run, said: Announcement) -> None:
        nodes = run.cluster.nodes
        if any(said.app in node.items for node in nodes):
            return
        node = min(nodes, key=lambda one: (one.used_bytes, one.name))
        if evict(run.cluster, node, said.size_bytes, self.order(run, node)):
            run.cluster.add(node, said.app, said.size_bytes)


class Belady(Reactive):
    """U1': knows all starts; the largest size x distance to the next use goes first; with `bypass` the newcomer itself if it is
    that."""

    def __init__(self, *, bypass: bool = True) -> None:
        self._bypass = bypass
        self.uses = defaultdict[str, list[float]](list)

    def begin(self, run: Run) -> None:
        """Reads the future."""
        for one in run.starts:
            self.uses[one.app].append(one.time_s)

    def next_use(self, app: str, now: float) -> float:
        """inf: never."""
        uses = self.uses[app]
        place = bisect.bisect_right(uses, now)
        return uses[place] if place < len(uses) else math.inf

    def loss(self, run: Run, app: str, size_bytes: int) -> float:
        """What it costs to hold it."""
        return size_bytes * (self.next_use(app, run.now) - run.now)

    def order(self, run: Run, node: Node) -> Iterable[str]:
        """The greatest loss first."""
        return sorted(node.items, key=lambda app: (-self.loss(run, app, node.items[app].size_bytes), app))

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """Unless it is the greatest loss itself."""
        own = self.loss(run, start.app, start.size_bytes)
        worse = list(self.order(run, node))
        if self._bypass:
            worse = [app for app in worse if self.loss(run, app, node.items[app].size_bytes) > own]
        return evict(run.cluster, node, start.size_bytes, worse)


class Clairvoyant(Belady):
    """U2, for one node: the same, and it fetches the next ones ahead, one at a time, over what is used later still."""

    look_ahead = 60

    def changed(self, run: Run, node: Node) -> None:
        """The link is never idle while something is worth it."""
        if node.coming:
            return
        first = bisect.bisect_right(run.starts, run.now, key=lambda one: one.time_s)
        for one in run.starts[first : first + self.look_ahead]:
            if one.app in node.items:
                continue
            later = [app for app in self._farthest(run, node) if self.next_use(app, run.now) > one.time_s]
            if evict(run.cluster, node, one.size_bytes, later):
                run.cluster.add(node, one.app, one.size_bytes)
                return

    def _farthest(self, run: Run, node: Node) -> Iterable[str]:
        return sorted(node.items, key=lambda app: (-self.next_use(app, run.now), app))


POLICIES: dict[str, Callable[[float], Reactive]] = {
    "no cache": lambda until_s: NoCache(),
    "LRU": lambda until_s: Reactive(),
    "LFU, decayed": lambda until_s: Frequency(),
    "GDSF": lambda until_s: GreedyDual(),
    "static list": lambda until_s: Static(until_s, bypass=False),
    "static list, bypass": lambda until_s: Static(until_s, bypass=True),
    "cron only": lambda until_s: Cron(),
    "Belady by size": lambda until_s: Belady(bypass=False),
    "Belady by size, bypass": lambda until_s: Belady(),
    "clairvoyant": lambda until_s: Clairvoyant(),
}


def cluster_of(count: int, *, budget_bytes: int, link: float, gpus: float, origin: float = math.inf) -> Cluster:
    """Nodes that are alike."""
    return Cluster([Node(f"n{number:04}", budget_bytes, link, gpus) for number in range(count)], origin)
