"""An API server that keeps what is asked of it: verb, group, resource with subresource. As RBAC sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from prestage.kube.ports import (
    EVERYTHING,
    Api,
    Object,
    Page,
    PatchType,
    Resource,
    ResourceVersion,
    Selection,
    WatchEvent,
)

Used = tuple[str, str, str]


class Asked:
    """`api`, and what was asked of it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.used: set[Used] = set()

    def _saw(self, verb: str, resource: Resource, subresource: str | None = None) -> None:
        group = resource.group_version.rpartition("/")[0]
        self.used.add((verb, group, f"{resource.plural}/{subresource}" if subresource else resource.plural))

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        self._saw("get", resource, subresource)
        return await self._api.get(resource, name, namespace=namespace, subresource=subresource)

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        self._saw("list", resource)
        return await self._api.page(resource, selection, limit=limit, rest=rest)

    async def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        self._saw("watch", resource)
        async for event in self._api.watch(resource, selection, since, lasting_s=lasting_s):
            yield event

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        self._saw("create", resource, subresource)
        return await self._api.create(resource, body, namespace=namespace, name=name, subresource=subresource)

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        self._saw("update", resource, subresource)
        return await self._api.replace(resource, body, subresource=subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object | list[Object],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        type: PatchType = PatchType.MERGE,  # noqa: A002  the API's word
    ) -> Object:
        self._saw("patch", resource, subresource)
        return await self._api.patch(resource, name, body, namespace=namespace, subresource=subresource, type=type)

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        self._saw("patch", resource, subresource)
        if subresource is None:
            self._saw("create", resource)  # where it is not there
        return await self._api.apply(resource, body, manager=manager, force=force, subresource=subresource)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, grace_s: int | None = None
    ) -> None:
        self._saw("delete", resource)
        await self._api.delete(resource, name, namespace=namespace, uid=uid, grace_s=grace_s)
