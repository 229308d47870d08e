"""What the rest of the house sees of an API server.

`Api` is what the adapter (client.py) and the fake (testing.py) both are; the suite in testing.py holds for both. Objects are
JSON as Python has it: whoever reads one turns it into a type of his own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

Object = Mapping[str, object]
"""As it came: never changed in place."""
ResourceVersion = NewType("ResourceVersion", str)
"""Opaque: compared for equality only, handed back as it came."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind by its path: `group_version` is "v1" or "apps/v1", `plural` as in the URL."""

    group_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path. A namespaced kind without namespace: all namespaces (list and watch only)."""
        top = f"/api/{self.group_version}" if "/" not in self.group_version else f"/apis/{self.group_version}"
        parts = [top]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name is not None else []), *([subresource] if subresource else [])]
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource: the API server chooses, so that others never travel."""

    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `rest` asks for the next one; None: this was the last."""

    items: tuple[Object, ...]
    resource_version: ResourceVersion
    rest: str | None


class Happening(StrEnum):
    """What a watch says."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch. Of a BOOKMARK only the resourceVersion counts; DELETED carries the last state."""

    happening: Happening
    object: Object


class PatchType(StrEnum):
    """Its media type. Server-side apply has a method of its own."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class Api(Protocol):
    """Requests. Each ends within its deadline, and raises what errors.py lists.

    Reads, deletes and applies are sent again while the answer may pass (429, 5xx, a cut connection); creates, replaces and
    patches only where the API server surely did nothing (429, refused connections).
    """

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        """One object."""
        ...

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        """A list, or a part of it. Raises Gone where `rest` is from before a compaction."""
        ...

    def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        """What happens after `since`, until the server ends it after `lasting_s` or nothing at all came for the idle deadline.

        Raises Gone where `since` is forgotten, Unreachable where the stream was cut. Closing the iterator ends the request.
        """
        ...

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """POST. With name and subresource: of an object that is there (tokens, evictions). Raises Conflict where it exists."""
        ...

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        """PUT: the whole object. Raises Conflict where metadata.resourceVersion is not the newest."""
        ...

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
        """PATCH of what is there."""
        ...

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        """Server-side apply: `manager` owns the fields of `body`, and gives up those it named before and no longer does.

        Raises Conflict where a field is another manager's, unless `force`.
        """
        ...

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, grace_s: int | None = None
    ) -> None:
        """Gone or going. With `uid`: that one only (Conflict where it is another). Raises Missing."""
        ...


def metadata_of(seen: Object) -> Mapping[str, object]:
    """Its metadata; empty where there is none. Asked for a million times a minute: a dict is told at a quarter of the price."""
    found = seen.get("metadata")
    return found if type(found) is dict or isinstance(found, Mapping) else {}


def name_of(seen: Object) -> str:
    """metadata.name."""
    return str(metadata_of(seen).get("name", ""))


def namespace_of(seen: Object) -> str | None:
    """metadata.namespace; None for what belongs to the cluster."""
    found = metadata_of(seen).get("namespace")
    return str(found) if found else None


def uid_of(seen: Object) -> str:
    """metadata.uid."""
    return str(metadata_of(seen).get("uid", ""))


def version_of(seen: Object) -> ResourceVersion:
    """metadata.resourceVersion."""
    return ResourceVersion(str(metadata_of(seen).get("resourceVersion", "")))
