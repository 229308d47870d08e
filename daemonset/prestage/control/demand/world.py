"""The cluster as the planner sees it: a mirror of every kind that counts, and who is told of changes.

One for a process, shared by every service of it (planning, statuses, the release of gates). Runs whether we lead or not, so
that a new leader knows at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from prestage.cacher.errors import PrestageError
from prestage.control.demand import trimming
from prestage.kube.following import Follower, Pace
from prestage.kube.mirror import Change, Changed, Mirror, Synced, without_managed_fields
from prestage.kube.news import News
from prestage.kube.ports import Api, Object, Resource
from prestage.kube.resources import (
    ARTIFACTS,
    CACHE_POLICIES,
    CRON_JOBS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    SCALED_OBJECTS,
    STAGED_MODELS,
    STAGING_SCHEDULES,
    STATEFUL_SETS,
    STORE_POOLS,
)

LOOKING_S: Final = 60.0
"""Between two looks for a kind of others."""
Listener = Callable[[Resource, Change], None]
"""Called for each change, on the loop: it takes note and returns."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one kind: what is kept of an object, and what has to differ to be news."""

    resource: Resource
    keep: Callable[[Object], Object] = without_managed_fields
    matter: Callable[[Object], object] = trimming.matter_of_named
    is_optional: bool = False
    """Of others: not every cluster has the kind. It is looked for now and then, and nothing waits for it."""


KEPT: Final = (
    Kept(PODS, trimming.trimmed_pod, trimming.matter_of_pod),
    Kept(NODES, trimming.trimmed_node),
    Kept(NAMESPACES),
    Kept(DEPLOYMENTS, trimming.trimmed_workload, trimming.matter_of_workload),
    Kept(REPLICA_SETS, trimming.trimmed_replica_set, trimming.matter_of_workload),
    Kept(STATEFUL_SETS, trimming.trimmed_workload, trimming.matter_of_workload),
    Kept(ARTIFACTS, trimming.trimmed_artifact),
    Kept(STAGED_MODELS, matter=trimming.matter_of_spec),
    Kept(NODE_CACHES, trimming.trimmed_node_cache, trimming.matter_of_node_cache),
    Kept(STORE_POOLS, matter=trimming.matter_of_spec),
    Kept(CACHE_POLICIES, matter=trimming.matter_of_spec),
    Kept(STAGING_SCHEDULES, matter=trimming.matter_of_spec),
    Kept(CRON_JOBS, trimming.trimmed_cron_job),
    Kept(HORIZONTAL_POD_AUTOSCALERS, trimming.trimmed_autoscaler, trimming.matter_of_spec),
    Kept(SCALED_OBJECTS, trimming.trimmed_autoscaler, trimming.matter_of_spec, is_optional=True),
    Kept(PRIORITY_CLASSES, trimming.trimmed_priority_class, trimming.matter_of_priority_class),
)


class World:
    """`mirrors` are whole after `synced`, and current from then on."""

    def __init__(self, api: Api, *, pace: Pace | None = None) -> None:
        self._api = api
        self._followers = {kept.resource: Follower(api, kept.resource, keep=kept.keep, pace=pace) for kept in KEPT}
        self._matter = {kept.resource: kept.matter for kept in KEPT}
        self._listeners: list[Listener] = []
        self._news: list[News] = []
        self._optional = {kept.resource for kept in KEPT if kept.is_optional}
        self._unsynced = {kept.resource for kept in KEPT} - self._optional
        self._synced = asyncio.Event()

    def __getitem__(self, resource: Resource) -> Mirror:
        return self._followers[resource].mirror

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            for resource in self._followers:
                group.create_task(self._follow(resource), name=f"follow {resource.plural}")

    async def synced(self) -> None:
        """Until every mirror was whole once."""
        await self._synced.wait()

    @property
    def is_synced(self) -> bool:
        """Every mirror was whole once."""
        return self._synced.is_set()

    @property
    def unsynced(self) -> list[str]:
        """Kinds that were never listed: the API server does not answer, or RBAC forbids."""
        return sorted(resource.plural for resource in self._unsynced)

    def news(self) -> News:
        """An event that is set at each change that may change a plan. Whoever waits clears it."""
        made = News()
        self._news.append(made)
        return made

    def listen(self, listener: Listener) -> None:
        """Every change, heartbeats included."""
        self._listeners.append(listener)

    async def _follow(self, resource: Resource) -> None:
        if resource in self._optional:
            await self._served(resource)
        async with aclosing(self._followers[resource].changes()) as changes:
            async for change in changes:
                for listener in self._listeners:
                    listener(resource, change)
                if self._is_news(resource, change):
                    for event in self._news:
                        event.set()

    async def _served(self, resource: Resource) -> None:
        """Until the API server has the kind, and lets us see it."""
        while True:
            try:
                await self._api.page(resource, limit=1)
            except PrestageError:
                await asyncio.sleep(LOOKING_S)
            else:
                return

    def _is_news(self, resource: Resource, change: Change) -> bool:
        if isinstance(change, Synced):
            was_missing = resource in self._unsynced
            self._unsynced.discard(resource)
            if not self._unsynced:
                self._synced.set()
            return was_missing
        if isinstance(change, Changed):
            matter = self._matter[resource]
            return matter(change.before) != matter(change.object)
        return True
