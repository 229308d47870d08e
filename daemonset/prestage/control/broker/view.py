"""The cluster as it was seen last: what the broker decides by. Followed, so that a question costs no list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from prestage.api.annotations import ENABLED_LABEL
from prestage.api.models import StagedModel, StagedModelGrant
from prestage.api.policies import CachePolicy, Origin
from prestage.api.reading import Invalid, read
from prestage.control.broker.refusals import denied, misconfigured
from prestage.control.broker.shelf import Shelf, trimmed
from prestage.kube.following import Follower, Pace
from prestage.kube.mirror import Appeared, Change, Changed, Mirror, Synced, Vanished, without_managed_fields
from prestage.kube.ports import Api, Object, Resource, metadata_of, name_of, namespace_of
from prestage.kube.resources import ARTIFACTS, CACHE_POLICIES, NAMESPACES, ORIGINS, STAGED_MODEL_GRANTS, STAGED_MODELS

FOLLOWED: Final[Mapping[Resource, Callable[[Object], Object]]] = {
    NAMESPACES: without_managed_fields,
    ORIGINS: without_managed_fields,
    CACHE_POLICIES: without_managed_fields,
    STAGED_MODELS: without_managed_fields,
    STAGED_MODEL_GRANTS: without_managed_fields,
    ARTIFACTS: trimmed,
}


class View:
    """`run` keeps it; nothing may be asked before `synced`."""

    def __init__(self, api: Api, *, pace: Pace | None = None) -> None:
        self._followers = {what: Follower(api, what, keep=keep, pace=pace) for what, keep in FOLLOWED.items()}
        self._waiting = set(self._followers)
        self.synced = asyncio.Event()
        self.shelf = Shelf()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for what, follower in self._followers.items():
                group.create_task(self._follow(what, follower.changes()))

    async def _follow(self, what: Resource, changes: AsyncGenerator[Change, None]) -> None:
        async with aclosing(changes):
            async for change in changes:
                if isinstance(change, Synced):
                    self._waiting.discard(what)
                    if not self._waiting:
                        self.synced.set()
                elif what == ARTIFACTS:
                    self._shelve(change)

    def _shelve(self, change: Change) -> None:
        match change:
            case Appeared() | Changed():
                self.shelf.put(change.object)
            case Vanished():
                self.shelf.drop(change.object)

    def _mirror(self, what: Resource) -> Mirror:
        return self._followers[what].mirror

    def labels(self, namespace: str) -> dict[str, str]:
        """Of a namespace; none where it is not there."""
        found = self._mirror(NAMESPACES).get(namespace)
        labels = metadata_of(found).get("labels") if found is not None else None
        return {str(name): str(value) for name, value in labels.items()} if isinstance(labels, Mapping) else {}

    def check_enabled(self, namespace: str) -> None:
        """Raises No where it has not opted in, or is going."""
        if self.labels(namespace).get(ENABLED_LABEL) != "true":
            hint = f"kubectl label namespace {namespace} {ENABLED_LABEL}=true"
            raise denied("NotEnabled", f"namespace {namespace} has not opted in", hint)

    def origins(self) -> list[Origin]:
        """Those that can be read: a broken one serves nobody, and blocks nobody else."""
        found = []
        for one in self._mirror(ORIGINS):
            try:
                found.append(read(Origin, one))
            except Invalid:
                continue
        return found

    def policies(self) -> list[CachePolicy]:
        """All. One that cannot be read is a wall that nobody passes: raises No."""
        found = []
        for one in self._mirror(CACHE_POLICIES):
            try:
                found.append(read(CachePolicy, one))
            except Invalid as exc:
                raise misconfigured(
                    "BrokenPolicy", f"CachePolicy {name_of(one)} cannot be read: {exc}", "ask an operator"
                ) from exc
        return found

    def model(self, namespace: str, name: str) -> StagedModel | None:
        """Raises No where it cannot be read."""
        found = self._mirror(STAGED_MODELS).get(name, namespace)
        if found is None:
            return None
        try:
            return read(StagedModel, found)
        except Invalid as exc:
            raise misconfigured("BrokenModel", f"StagedModel {namespace}/{name} cannot be read: {exc}") from exc

    def grants(self, owner: str) -> list[StagedModelGrant]:
        """Of a namespace; one that cannot be read grants nothing."""
        found = []
        for one in self._mirror(STAGED_MODEL_GRANTS):
            if namespace_of(one) == owner:
                try:
                    found.append(read(StagedModelGrant, one))
                except Invalid:
                    continue
        return found
