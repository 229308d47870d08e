"""One run: a trace of starts, what was said ahead of them, a policy, a scheduler; and what came of it.

announcement ─▶ policy            start ─▶ scheduler ─▶ node: warm, or the pod waits for it ─▶ end
                                             └─ what a pod waits for is fetched at once, whatever the policy is
A pod whose node is lost starts again elsewhere, and counts as one more start.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from prestage.bench.plan.cluster import Cluster, Item, Node
from prestage.bench.plan.traces import Announcement, Start
from prestage.cacher.errors import Misconfigured


class Scheduler(StrEnum):
    """How a pod's node is chosen among those with free accelerators."""

    BLIND = "blind"
    BEST_OF_5 = "best of 5"
    STEERED = "steered"
    """Kubernetes' own, which prefers nodes with our label, where it is warm: it stops looking once it found as many that fit as
    50 % less 1 for each 125 nodes are of all (at least 5 % and 100)."""
    PACKED = "packed"
    """As steered, but of nodes alike it takes the one with the fewest accelerators free (`MostAllocated`): whole nodes stay free
    for who needs one. All others take the one with the most."""
    AWARE = "aware"
    """Looks at all."""


class Policy(Protocol):
    """Decides what is fetched ahead, and what goes."""

    def begin(self, run: Run) -> None:
        """Before the first event."""

    def room(self, run: Run, node: Node, start: Start) -> bool:
        """A pod there waits for what is not there: make room. False: it is streamed and not kept."""

    def told(self, run: Run, said: Announcement) -> None:
        """Somebody said something."""

    def changed(self, run: Run, node: Node) -> None:
        """Something began, ended or became whole on a node."""


@dataclass(frozen=True, slots=True)
class Served:
    """A pod that has its bytes. `number`: the place of its start in the trace. `wait_s` 0: it was warm."""

    number: int
    node: str
    at_s: float
    wait_s: float


@dataclass(slots=True)
class Tally:
    """What came of a run."""

    waits_s: list[float] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    """What `waits_s` is of."""
    gpu_wait_s: float = 0.0
    warm: int = 0
    bytes_hit: float = 0.0
    bytes_asked: float = 0.0
    queued_s: float = 0.0
    """For accelerators, before there was a node; no wait for bytes."""
    fetched_bytes: float = 0.0
    wasted_bytes: float = 0.0
    declared: dict[int, float] = field(default_factory=dict)
    """By place among the announcements: seconds after the moment that was said."""
    demand_pulls: list[tuple[float, float]] = field(default_factory=list)
    """When, and how many bytes: what pods waited for."""
    missing_bytes: dict[int, float] = field(default_factory=dict)
    """By announcement: what was not there when it was said."""
    pinned: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """One node: since when what pods used or waited for, by app, took its bytes of the store."""


@dataclass(frozen=True, slots=True)
class _Pod:
    node: Node
    item: Item
    gpus: int
    ends_at: float


_TRY_S = 118.0
"""A publish waits inside the kubelet's call, and answers just before its two minutes are over."""


def publish_delay_s(waited_s: float) -> float:
    """From an artifact being whole to its pod having it: nothing while a call waits for it, else until the kubelet calls again,
    after 0.6, 1, 2, 4 ... 64 s (as measured on a kubelet 1.36)."""
    began, pause = 0.0, 0.6
    while waited_s > began + _TRY_S:
        again = began + _TRY_S + pause
        if waited_s <= again:
            return again - waited_s
        began, pause = again, min(64.0, max(1.0, pause * 2 if pause >= 1 else 1.0))
    return 0.0


class Run:
    """Of one trace."""

    def __init__(
        self,
        cluster: Cluster,
        starts: Sequence[Start],
        said: Sequence[Announcement],
        policy: Policy,
        *,
        scheduler: Scheduler = Scheduler.AWARE,
        seed: int = 1,
        measured_from_s: float = 0.0,
        faults: Sequence[tuple[float, Callable[[Run], None]]] = (),
        has_kubelet: bool = False,
    ) -> None:
        """`has_kubelet`: a pod that waits has its files when the kubelet asks for them.

        Raises:
            Misconfigured: a start that no node can hold, behind which all others would wait.
        """
        _refuse_too_large(starts, max(node.gpus for node in cluster.nodes))
        self.cluster, self.starts, self.said, self.policy = cluster, starts, said, policy
        self.tally, self._from_s, self._left = Tally(), measured_from_s, len(starts)
        self._scheduler, self._chance = scheduler, random.Random(f"scheduler {seed}")  # noqa: S311  a seed, no secret
        self._events = list[tuple[float, int, int, Callable[[], None]]]()
        self._count = 0
        self._queue = deque[int]()
        self._has_kubelet = has_kubelet
        self._placed_at: dict[int, float] = {}
        """Of starts that first had to wait for an accelerator, or lost their node: that is no wait for bytes."""
        self._pods: dict[int, _Pod] = {}
        self._left_s: dict[int, float] = {}
        """Of pods that lost their node: what they still have to run."""
        self._served = set[int | None]()
        self._until_ready: dict[str, list[int]] = {}
        cluster.done = self._whole
        for number, one in enumerate(said):
            self.at(one.said_s, lambda number=number: self._told(number), order=0)  # type: ignore[misc]  # mypy infers no lambda with a default
            self.at(one.ready_s, lambda number=number: self._due(number), order=1)  # type: ignore[misc]  # as above
        for number, start in enumerate(starts):
            self.at(start.time_s, lambda number=number: self._start(number), order=2)  # type: ignore[misc]  # as above
        for moment, fault in faults:
            self.at(moment, lambda fault=fault: fault(self), order=0)  # type: ignore[misc]  # as above

    @property
    def now(self) -> float:
        """Of the trace."""
        return self.cluster.now

    def at(self, moment: float, what: Callable[[], None], *, order: int = 3) -> None:
        """Call it then."""
        self._count += 1
        heapq.heappush(self._events, (max(moment, self.now), order, self._count, what))

    def go(self, watch: Callable[[Run], None] = lambda run: None) -> Tally:
        """To the end of the trace. `watch`: called after each event."""
        self.policy.begin(self)
        if self._from_s:
            self.at(self._from_s, self._measure, order=0)
        last = self.starts[-1].time_s if self.starts else 0.0
        self.at(last, self._note_bytes, order=9)
        while (done := self.cluster.next_done()) < math.inf or self._events:
            if self._events and self._events[0][0] <= done:
                moment, _, _, what = heapq.heappop(self._events)
                self.cluster.advance(moment)
                what()
            else:
                self.cluster.advance(done)
            watch(self)
            if self.now > last and self._left == 0:
                break
        return self.tally

    def _note_bytes(self) -> None:
        self.tally.fetched_bytes, self.tally.wasted_bytes = self.cluster.fetched_bytes, self.cluster.wasted_bytes

    def _measure(self) -> None:
        self.cluster.fetched_bytes = self.cluster.wasted_bytes = 0.0

    def _told(self, number: int) -> None:
        one = self.said[number]
        if not any(True for _ in self.cluster.holders(one.app)):
            left = [node.items[one.app].left_bytes for node in self.cluster.with_any(one.app)]
            self.tally.missing_bytes[number] = min(left, default=float(one.size_bytes))
        else:
            self.tally.missing_bytes[number] = 0.0
        self.policy.told(self, one)

    def _due(self, number: int) -> None:
        app, start = self.said[number].app, self.said[number].start
        if start in self._served or any(True for _ in self.cluster.holders(app)):
            self.tally.declared[number] = 0.0
        else:
            self._until_ready.setdefault(app, []).append(number)

    def _start(self, number: int) -> None:
        node = self._choose(self.starts[number])
        if node is None:
            self._queue.append(number)
            return
        self._place(number, node)

    def _place(self, number: int, node: Node) -> None:
        start, tally = self.starts[number], self.tally
        node.gpus -= start.gpus
        is_counted = self._is_counted(number)
        tally.bytes_asked += start.size_bytes * is_counted
        item = node.items.get(start.app)
        if item is not None and item.is_warm:
            tally.warm += is_counted
            tally.bytes_hit += start.size_bytes * is_counted
            self._run(number, node, item, waited_s=0.0)
        else:
            if item is None:
                is_kept = self.policy.room(self, node, start)
                item = self.cluster.add(node, start.app, start.size_bytes, is_kept=is_kept)
            self.cluster.resume(node, start.app)
            if not item.is_wanted:
                tally.demand_pulls.append((self.now, item.left_bytes))
            item.is_wanted = True
            item.waiting.append(number)
            item.used_at, item.is_used = self.now, True
            self.cluster.touch()
        self._pin(node)
        self.policy.changed(self, node)

    def _is_counted(self, number: int) -> bool:
        """It came in the measured time, and found its accelerators before the last start of the trace: soon after all pods end
        at once, and who still waits for accelerators begins in one second, which says nothing of a policy."""
        at = self.starts[number].time_s
        return at >= self._from_s and self._placed_at.get(number, at) <= self.starts[-1].time_s

    def _pin(self, node: Node) -> None:
        if len(self.cluster.nodes) == 1:
            held = {item.app: item.size_bytes for item in node.items.values() if item.is_kept and (item.pods or item.waiting)}
            self.tally.pinned.append((self.now, held))

    def _run(self, number: int, node: Node, item: Item, *, waited_s: float) -> None:
        start = self.starts[number]
        delay_s = publish_delay_s(waited_s) if self._has_kubelet else 0.0
        self._left -= 1
        self._served.add(number)
        if self._is_counted(number):
            self.tally.waits_s.append(waited_s + delay_s)
            self.tally.served.append(Served(number, node.name, self.now + delay_s, waited_s + delay_s))
            self.tally.gpu_wait_s += (waited_s + delay_s) * start.gpus
        item.pods += 1
        item.used_at, item.is_used = self.now, True
        ends_at = self.now + delay_s + self._left_s.pop(number, start.duration_s)
        pod = self._pods[number] = _Pod(node, item, start.gpus, ends_at)
        self.at(ends_at, lambda: self._end(number, pod))

    def _whole(self, node: Node, item: Item) -> None:
        waiting, item.waiting, item.is_wanted = item.waiting, [], False
        for number in waiting:
            self._run(number, node, item, waited_s=self.now - self._placed_at.get(number, self.starts[number].time_s))
        for number in self._until_ready.pop(item.app, ()):
            self.tally.declared[number] = self.now - self.said[number].ready_s
        self.policy.changed(self, node)

    def _end(self, number: int, pod: _Pod) -> None:
        if self._pods.get(number) is not pod:
            return
        del self._pods[number]
        node, item = pod.node, pod.item
        node.gpus += pod.gpus
        item.pods -= 1
        item.used_at = self.now
        if item.pods == 0 and not item.is_kept and not item.waiting:
            self.cluster.drop(node, item.app)
        self._pin(node)
        self.policy.changed(self, node)
        self._admit()

    def lose(self, node: Node) -> None:
        """It is gone with all it has; its pods start again where there is place."""
        again = sorted(number for number, pod in self._pods.items() if pod.node is node)
        for number in again:
            pod = self._pods.pop(number)
            self._left_s[number] = max(0.0, pod.ends_at - self.now)
            self._left += 1
        again += sorted(number for item in node.items.values() for number in item.waiting)
        self.cluster.remove(node)
        for number in again:
            self._placed_at[number] = self.now
        self._queue.extendleft(reversed(again))
        self._admit()

    def gpus_taken(self, node: Node) -> int:
        """By its pods, those that wait for bytes too."""
        waiting = (number for item in node.items.values() for number in item.waiting)
        return sum(pod.gpus for pod in self._pods.values() if pod.node is node) + sum(self.starts[one].gpus for one in waiting)

    def join(self, node: Node) -> None:
        """A new node, with nothing."""
        self.cluster.nodes.append(node)
        self.policy.changed(self, node)
        self._admit()

    def _admit(self) -> None:
        """Pods that wait for accelerators, in their order."""
        while self._queue:
            number = self._queue[0]
            chosen = self._choose(self.starts[number])
            if chosen is None:
                break
            self._queue.popleft()
            since = self._placed_at.get(number, self.starts[number].time_s)
            self._placed_at[number] = self.now
            self.tally.queued_s += (self.now - since) * self._is_counted(number)
            self._place(number, chosen)

    def _choose(self, start: Start) -> Node | None:
        """Among those with room: warm before coming before any."""
        free = [node for node in self.cluster.nodes if node.gpus >= start.gpus]
        if not free:
            return None
        count = {Scheduler.BLIND: 1, Scheduler.BEST_OF_5: 5, Scheduler.AWARE: len(free)}.get(
            self._scheduler, _looks_at(len(self.cluster.nodes))
        )
        looked = free if count >= len(free) else self._chance.sample(free, count)

        def rank(node: Node) -> tuple[int, float, str]:
            item = node.items.get(start.app)
            near = 2 if item is None else 0 if item.is_warm else 1
            return near, node.gpus if self._scheduler is Scheduler.PACKED else -node.gpus, node.name

        return min(looked, key=rank)


def _refuse_too_large(starts: Sequence[Start], gpus: float) -> None:
    for start in starts:
        if start.gpus > gpus:
            raise Misconfigured(
                f"app {start.app!r} needs {start.gpus} accelerators, a node has {gpus:g}",
                hint="give nodes more (--gpus), or leave such starts out of the trace",
            )


def _looks_at(nodes: int) -> int:
    """How many nodes that fit are enough for kube-scheduler, percentageOfNodesToScore unset."""
    return max(100, int(nodes * max(5.0, 50.0 - nodes / 125) / 100))
