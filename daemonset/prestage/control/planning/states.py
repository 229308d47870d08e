"""From Nodes, their NodeCaches and StorePools to what the planner knows of a node. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from prestage.api import nodes
from prestage.api.conditions import find
from prestage.api.nodes import (
    ENTRIES_MAX,
    IMAGES_MAX,
    MODELS_MAX,
    EntryType,
    NodeCache,
    NodeCacheSpec,
    NodeCacheStatus,
    PlannedArtifact,
)
from prestage.api.policies import StorePool
from prestage.api.reading import Invalid, read
from prestage.api.selecting import selects
from prestage.api.texts import duration_s, quantity_bytes
from prestage.api.values import ConditionStatus
from prestage.calendar.windows import again
from prestage.control.demand.feasibility import site_of
from prestage.control.demand.leaving import is_away, is_leaving
from prestage.control.demand.once import Once
from prestage.kube.ports import Object, metadata_of, name_of, uid_of, version_of
from prestage.planner.nodes import Held, NodeState, RateWindow
from prestage.planner.plans import Assignment, NodePlan, Source

_WINDOWS: Final = "windows"


def is_ours(node: Object) -> bool:
    """Whether an agent may run there: it gets a NodeCache."""
    labels = metadata_of(node).get("labels")
    system = labels.get("kubernetes.io/os") if isinstance(labels, Mapping) else None
    return system != _WINDOWS and "deletionTimestamp" not in metadata_of(node)


def cache_of(seen: Object | None) -> NodeCache | None:
    """None where there is none, or one that cannot be read: as if it were new."""
    if seen is None:
        return None
    try:
        return read(NodeCache, seen)
    except Invalid:
        return None


def plan_in(cache: NodeCache) -> NodePlan:
    """What it says already."""
    return NodePlan(cache.metadata.name, cache.spec.node_uid, tuple(map(_assignment, cache.spec.artifacts or ())))


def state_of(
    node: Object,
    cache: NodeCache | None,
    pools: Iterable[StorePool],
    *,
    sent: NodePlan | None = None,
    now: float | None = None,
) -> NodeState:
    """`sent`: what was written and is not seen yet. `now` None: without windows of rates."""
    site = site_of(node)
    is_about = cache is not None and cache.spec.node_uid == site.uid
    status = cache.status if cache is not None and is_about and cache.status is not None else NodeCacheStatus()
    mine = [pool for pool in pools if selects(pool.spec.node_selector, site.labels)]
    limits = [pool.spec for pool in mine]
    budgets = [quantity_bytes(spec.budget) for spec in limits if spec.budget is not None]
    budget = None if status.budget is None else min([quantity_bytes(status.budget), *budgets])
    known = sent if sent is not None else plan_in(cache) if cache is not None and is_about else None
    ready = find(status.conditions, "Ready")
    is_unwell = ready is not None and ready.status is ConditionStatus.FALSE
    return NodeState(
        site.name,
        site.uid,
        budget_bytes=budget,
        is_accepting=not is_unwell and not is_away(site.taints),
        is_leaving=is_leaving(site.taints),
        rate_bytes_per_s=_rate(status, [spec.origin_bytes_per_second for spec in limits]),
        rate_windows=() if now is None else tuple(window for pool in mine for window in rate_windows(pool, now)),
        used_bytes=_used(status),
        entries_max=ENTRIES_MAX if status.images is None else MODELS_MAX,
        held=_held(status, EntryType.MODEL),
        planned=_told(known, EntryType.MODEL),
    )


def image_state(state: NodeState, cache: NodeCache | None, told: NodePlan | None) -> NodeState | None:
    """The same node as images see it: containerd's room, what lies there, what it was told. None: it stages none."""
    status = cache.status if cache is not None and cache.spec.node_uid == state.uid else None
    images = status.images if status is not None else None
    if status is None or images is None:
        return None
    rate = None if images.rate_p10 is None else float(quantity_bytes(images.rate_p10)) or None
    return replace(
        state,
        budget_bytes=None if images.budget is None else quantity_bytes(images.budget),
        used_bytes=None if images.used is None else quantity_bytes(images.used),
        rate_bytes_per_s=rate if rate is not None else state.rate_bytes_per_s,
        entries_max=IMAGES_MAX,
        held=_held(status, EntryType.IMAGE),
        planned=_told(told, EntryType.IMAGE),
    )


def whole(states: Iterable[NodeState], images: Iterable[NodeState]) -> list[NodeState]:
    """Nodes with all that lies on them, for whoever reports."""
    more = {one.name: one for one in images}
    return [
        state
        if (image := more.get(state.name)) is None
        else replace(state, held={**image.held, **state.held}, planned={**image.planned, **state.planned})
        for state in states
    ]


def _held(status: NodeCacheStatus, kind: EntryType) -> dict[str, Held]:
    found = (one for one in status.artifacts or () if one.type is kind)
    return {one.digest: Held(one.state, one.error_class, one.error_code, one.step) for one in found}


def _told(known: NodePlan | None, kind: EntryType) -> dict[str, Assignment]:
    return {one.artifact: one for one in known.assignments if one.kind is kind} if known is not None else {}


@dataclass(frozen=True, slots=True)
class SeenCache:
    """A NodeCache as it was seen. `cache` None: it cannot be read."""

    name: str
    mark: tuple[str, str]
    """UID and resourceVersion."""
    cache: NodeCache | None
    plan: NodePlan | None


class Caches:
    """All NodeCaches by name; what did not change is not read again."""

    def __init__(self) -> None:
        self._read = Once(_seen_cache)

    def look(self, caches: Iterable[Object]) -> Mapping[str, SeenCache]:
        """As they are now; the same object as long as its NodeCache is."""
        return {seen.name: seen for _, seen in self._read.look(caches)}


def _seen_cache(seen: Object) -> SeenCache:
    cache = cache_of(seen)
    plan = plan_in(cache) if cache is not None else None
    return SeenCache(name_of(seen), (uid_of(seen), str(version_of(seen))), cache, plan)


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """At one node: what it was read from, and what that came to."""

    node: Object
    seen: SeenCache | None
    written: NodePlan | None
    state: NodeState
    image: NodeState | None
    """As images see it; None: it stages none."""


class States:
    """Of all nodes; what did not change is not looked at again."""

    def __init__(self) -> None:
        self._ours = Once(_name_of_ours)
        self._looked: dict[str, _Looked] = {}
        self._limits: tuple[object, ...] = ()

    def of(
        self,
        seen_nodes: Iterable[Object],
        caches: Mapping[str, SeenCache],
        pools: Iterable[Object],
        sent: Mapping[str, NodePlan],
        now: float | None = None,
    ) -> list[NodeState]:
        """`sent`: what was written and is not seen yet, by node. `now` None: without windows of rates."""
        pools = list(pools)
        known = [pool for seen in pools if (pool := _pool(seen)) is not None]
        rates = tuple(window for pool in known for window in rate_windows(pool, now)) if now is not None else ()
        limits = (*sorted(str(version_of(seen)) for seen in pools), rates)
        before = self._looked if limits == self._limits else {}
        self._limits, self._looked = limits, {}
        for node, name in self._ours.look(seen_nodes):
            if name is None:
                continue
            seen, written, last = caches.get(name), sent.get(name), before.get(name)
            if last is None or last.node is not node or last.seen is not seen or last.written is not written:
                state = state_of(node, seen.cache if seen else None, known, sent=written, now=now)
                image = image_state(state, seen.cache, written or seen.plan) if seen is not None else None
                last = _Looked(node, seen, written, state, image)
            self._looked[name] = last
        return [one.state for one in self._looked.values()]

    @property
    def images(self) -> list[NodeState]:
        """Of those that stage images, as they were looked at."""
        return [one.image for one in self._looked.values() if one.image is not None]


def _name_of_ours(node: Object) -> str | None:
    return name_of(node) if is_ours(node) else None


def spec_of(made: NodePlan) -> NodeCacheSpec:
    """As the API has it."""
    return NodeCacheSpec(node_uid=made.uid, plan=made.version, artifacts=list(map(_planned, made.assignments)) or None)


def _assignment(one: PlannedArtifact) -> Assignment:
    sources = tuple(Source(source.type, source.node) for source in one.sources or ())
    ready_by = None if one.ready_by is None else one.ready_by.timestamp()
    return Assignment(one.digest, one.action, one.priority, ready_by, sources, kind=one.type)


def _planned(one: Assignment) -> PlannedArtifact:
    return PlannedArtifact(
        digest=one.artifact,
        type=one.kind,
        action=one.action,
        priority=one.priority,
        ready_by=None if one.ready_by is None else datetime.datetime.fromtimestamp(one.ready_by, datetime.UTC),
        sources=[nodes.Source(type=source.type, node=source.node) for source in one.sources] or None,
    )


def rate_windows(pool: StorePool, now: float) -> tuple[RateWindow, ...]:
    """Of a pool: those that are open, and the next ones. One that cannot be understood is left out: its status says so."""
    made = list[RateWindow]()
    for window in pool.spec.windows or ():
        try:
            openings = again(window.schedule, window.time_zone, duration_s(window.duration)).at(now)
        except ValueError:
            continue
        rate = float(quantity_bytes(window.origin_bytes_per_second))
        found = [one for one in (openings.open, openings.next) if one is not None]
        made += [RateWindow(one.begins, one.ends, rate) for one in found]
    return tuple(made)


def _used(status: NodeCacheStatus) -> int | None:
    if status.used is None:
        return None
    return quantity_bytes(status.used) + quantity_bytes(status.reserved or 0)


def _rate(status: NodeCacheStatus, caps: Iterable[int | str | None]) -> float | None:
    if status.origin_rate_p10 is None:
        return None
    limits = [quantity_bytes(cap) for cap in caps if cap is not None]
    return float(min([quantity_bytes(status.origin_rate_p10), *limits])) or None


def _pool(seen: Object) -> StorePool | None:
    try:
        return read(StorePool, seen)
    except Invalid:
        return None
