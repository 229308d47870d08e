"""The cluster as it was seen last: what the broker decides by. Followed, so that a question costs no list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from prestage.api.annotations import ENABLED_LABEL
from prestage.api.models import StagedModel, StagedModelGrant
from prestage.api.policies import CachePolicy, Origin, StorePool
from prestage.api.reading import Invalid, read
from prestage.control.broker.refusals import denied, misconfigured
from prestage.control.broker.shelf import Kept, Shelf, kept, trimmed
from prestage.kube.errors import Invalid as InvalidRequest
from prestage.kube.errors import Missing
from prestage.kube.following import Follower, Pace
from prestage.kube.mirror import Appeared, Change, Changed, Mirror, Synced, Vanished, without_managed_fields
from prestage.kube.ports import Api, Object, Resource, Selection, metadata_of, name_of, namespace_of
from prestage.kube.resources import (
    ARTIFACTS,
    CACHE_POLICIES,
    NAMESPACES,
    ORIGINS,
    STAGED_MODEL_GRANTS,
    STAGED_MODELS,
    STORE_POOLS,
)

FOLLOWED: Final[Mapping[Resource, Callable[[Object], Object]]] = {
    NAMESPACES: without_managed_fields,
    ORIGINS: without_managed_fields,
    CACHE_POLICIES: without_managed_fields,
    STORE_POOLS: without_managed_fields,
    STAGED_MODELS: without_managed_fields,
    STAGED_MODEL_GRANTS: without_managed_fields,
    ARTIFACTS: trimmed,
}
_PAGE: Final = 20


class View:
    """`run` keeps it; nothing may be asked before `synced`."""

    def __init__(self, api: Api, *, pace: Pace | None = None) -> None:
        self._api = api
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
        return _labels(self._mirror(NAMESPACES).get(namespace))

    async def check_enabled(self, namespace: str) -> None:
        """Raises No where it has not opted in. A no is looked at again: who asks may have seen more than we did."""
        if self.labels(namespace).get(ENABLED_LABEL) == "true":
            return
        try:
            fresh = _labels(await self._api.get(NAMESPACES, namespace))
        except (Missing, InvalidRequest):
            fresh = {}
        if fresh.get(ENABLED_LABEL) != "true":
            hint = f"kubectl label namespace {namespace} {ENABLED_LABEL}=true"
            raise denied("NotEnabled", f"namespace {namespace} has not opted in", hint)

    def raw_origins(self) -> list[Object]:
        """All of them."""
        return list(self._mirror(ORIGINS))

    def origins(self) -> list[Origin]:
        """Those that can be read: a broken one serves nobody, and blocks nobody else."""
        found = []
        for one in self._mirror(ORIGINS):
            try:
                found.append(read(Origin, one))
            except Invalid:
                continue
        return found

    def pools(self) -> list[StorePool]:
        """Those that can be read: a broken one has no mirrors."""
        found = []
        for one in self._mirror(STORE_POOLS):
            try:
                found.append(read(StorePool, one))
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
        """As it was seen last. Raises No where it cannot be read."""
        found = self._mirror(STAGED_MODELS).get(name, namespace)
        return None if found is None else _model(found)

    async def fresh_model(self, namespace: str, name: str) -> StagedModel | None:
        """As it is: what is recorded for one of its generations stands for ever."""
        try:
            return _model(await self._api.get(STAGED_MODELS, name, namespace=namespace))
        except Missing:
            return None

    async def holders(self, digest: str) -> tuple[Kept, ...]:
        """Every namespace's Artifact of that name; asked for where none was seen yet."""
        known = self.shelf.holders(digest)
        if known:
            return known
        page = await self._api.page(ARTIFACTS, Selection(fields=f"metadata.name={digest.replace(':', '-', 1)}"), limit=_PAGE)
        return tuple(map(kept, page.items))

    async def artifact(self, namespace: str, digest: str, ref: str) -> Kept | None:
        """A namespace's Artifact that somebody got by `ref`; asked for where that was not seen yet."""
        known = self.shelf.at(namespace, digest)
        if known is not None and known.names(ref):
            return known
        try:
            fresh = kept(await self._api.get(ARTIFACTS, digest.replace(":", "-", 1), namespace=namespace))
        except Missing:
            return None
        return fresh if fresh.names(ref) else None

    def grants(self, owner: str, model: str, namespace: str) -> list[StagedModelGrant]:
        """The owner's that name both; one that cannot be read grants nothing. Whoever wrote ten thousand others is passed by."""
        found = []
        for one in self._mirror(STAGED_MODEL_GRANTS):
            if namespace_of(one) == owner and _names(one, "to", "name", model) and _names(one, "from", "namespace", namespace):
                try:
                    found.append(read(StagedModelGrant, one))
                except Invalid:
                    continue
        return found


def _labels(found: Object | None) -> dict[str, str]:
    labels = metadata_of(found).get("labels") if found is not None else None
    return {str(name): str(value) for name, value in labels.items()} if isinstance(labels, Mapping) else {}


def _names(seen: Object, rows: str, field: str, value: str) -> bool:
    """In its spec, before it is read."""
    spec = seen.get("spec")
    listed = spec.get(rows) if isinstance(spec, Mapping) else None
    return isinstance(listed, list) and any(isinstance(row, Mapping) and row.get(field) == value for row in listed)


def _model(found: Object) -> StagedModel:
    try:
        return read(StagedModel, found)
    except Invalid as exc:
        shown = f"{namespace_of(found)}/{name_of(found)}"
        raise misconfigured("BrokenModel", f"StagedModel {shown} cannot be read: {exc}") from exc
