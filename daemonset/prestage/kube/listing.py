"""A list, once: what is read and not followed."""

from __future__ import annotations

from typing import Final

from prestage.kube.ports import EVERYTHING, Api, Object, Resource, Selection

_PAGE: Final = 500


async def all_of(api: Api, resource: Resource, selection: Selection = EVERYTHING) -> list[Object]:
    """Every object, page by page. Raises what `Api.page` raises."""
    found, rest = list[Object](), None
    while True:
        page = await api.page(resource, selection, limit=_PAGE, rest=rest)
        found += page.items
        if (rest := page.rest) is None:
            return found
