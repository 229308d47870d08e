"""What every `Api` does: run over the fake and over the real API server (tests/contract/kube, tests/cluster/kube).

Each check takes an API, a namespace of its own, and what makes the API server forget its history.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from prestage.kube.errors import Conflict, Gone, Invalid, Missing
from prestage.kube.ports import (
    Api,
    Happening,
    Object,
    PatchType,
    ResourceVersion,
    Selection,
    WatchEvent,
    metadata_of,
    name_of,
    uid_of,
    version_of,
)
from prestage.kube.resources import CONFIG_MAPS

Forget = Callable[[], None]
Check = Callable[[Api, str, Forget], Awaitable[None]]


def config_map(namespace: str, name: str, data: dict[str, str] | None = None, labels: dict[str, str] | None = None) -> Object:
    """What the checks write."""
    metadata: dict[str, object] = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = labels
    return {"metadata": metadata, **({"data": data} if data is not None else {})}


async def what_is_created_is_there_once(api: Api, namespace: str, forget: Forget) -> None:
    """POST, GET, and the refusals of both."""
    made = await api.create(CONFIG_MAPS, config_map(namespace, "a", {"k": "v"}))
    assert uid_of(made)
    assert await api.get(CONFIG_MAPS, "a", namespace=namespace) == made
    await _refused(Conflict, api.create(CONFIG_MAPS, config_map(namespace, "a")))
    await _refused(Missing, api.get(CONFIG_MAPS, "b", namespace=namespace))
    await _refused(Invalid, api.create(CONFIG_MAPS, config_map(namespace, "")))


async def a_write_over_something_unseen_is_a_conflict(api: Api, namespace: str, forget: Forget) -> None:
    """PUT with an old resourceVersion."""
    first = await api.create(CONFIG_MAPS, config_map(namespace, "a", {"k": "1"}))
    second = await api.replace(CONFIG_MAPS, {**first, "data": {"k": "2"}})
    await _refused(Conflict, api.replace(CONFIG_MAPS, {**first, "data": {"k": "3"}}))
    assert (await api.get(CONFIG_MAPS, "a", namespace=namespace))["data"] == {"k": "2"}
    assert uid_of(first) == uid_of(second)
    assert version_of(first) != version_of(second)


async def a_write_that_changes_nothing_makes_no_version(api: Api, namespace: str, forget: Forget) -> None:
    """PUT, PATCH and apply alike."""
    first = await api.create(CONFIG_MAPS, config_map(namespace, "a", {"k": "1"}))
    assert version_of(await api.replace(CONFIG_MAPS, first)) == version_of(first)
    same = await api.patch(CONFIG_MAPS, "a", {"data": {"k": "1"}}, namespace=namespace)
    assert version_of(same) == version_of(first)
    applied = await api.apply(CONFIG_MAPS, config_map(namespace, "b", {"k": "1"}), manager="one")
    again = await api.apply(CONFIG_MAPS, config_map(namespace, "b", {"k": "1"}), manager="one")
    assert version_of(applied) == version_of(again)


async def patches_change_what_they_name(api: Api, namespace: str, forget: Forget) -> None:
    """Merge and JSON patches."""
    await api.create(CONFIG_MAPS, config_map(namespace, "a", {"k": "1", "l": "2"}))
    merged = await api.patch(CONFIG_MAPS, "a", {"data": {"k": None, "m": "3"}}, namespace=namespace)
    assert merged["data"] == {"l": "2", "m": "3"}
    steps: list[Object] = [
        {"op": "test", "path": "/data/l", "value": "2"},
        {"op": "replace", "path": "/data/l", "value": "4"},
        {"op": "add", "path": "/data/n", "value": "5"},
        {"op": "remove", "path": "/data/m"},
    ]
    await _refused(
        Invalid, api.patch(CONFIG_MAPS, "a", [{**steps[0], "path": "/data/a"}], namespace=namespace, type=PatchType.JSON)
    )
    patched = await api.patch(CONFIG_MAPS, "a", steps, namespace=namespace, type=PatchType.JSON)
    assert patched["data"] == {"l": "4", "n": "5"}


async def appliers_own_what_they_name(api: Api, namespace: str, forget: Forget) -> None:
    """Server-side apply: ownership, conflict, force, and what is no longer named."""
    await api.apply(CONFIG_MAPS, config_map(namespace, "a", {"one": "1", "both": "1"}), manager="one")
    await api.apply(CONFIG_MAPS, config_map(namespace, "a", {"two": "2"}), manager="two")
    await _refused(Conflict, api.apply(CONFIG_MAPS, config_map(namespace, "a", {"two": "2", "both": "2"}), manager="two"))
    forced = await api.apply(CONFIG_MAPS, config_map(namespace, "a", {"two": "2", "both": "2"}), manager="two", force=True)
    assert forced["data"] == {"one": "1", "two": "2", "both": "2"}
    less = await api.apply(CONFIG_MAPS, config_map(namespace, "a", {"both": "2"}), manager="two")
    assert less["data"] == {"one": "1", "both": "2"}


async def only_the_one_that_was_meant_is_deleted(api: Api, namespace: str, forget: Forget) -> None:
    """DELETE with UID."""
    first = await api.create(CONFIG_MAPS, config_map(namespace, "a"))
    await api.delete(CONFIG_MAPS, "a", namespace=namespace, uid=uid_of(first))
    second = await api.create(CONFIG_MAPS, config_map(namespace, "a"))
    await _refused(Conflict, api.delete(CONFIG_MAPS, "a", namespace=namespace, uid=uid_of(first)))
    assert uid_of(await api.get(CONFIG_MAPS, "a", namespace=namespace)) == uid_of(second)
    await api.delete(CONFIG_MAPS, "a", namespace=namespace)
    await _refused(Missing, api.delete(CONFIG_MAPS, "a", namespace=namespace))


async def a_finalizer_delays_the_end(api: Api, namespace: str, forget: Forget) -> None:
    """deletionTimestamp first, gone when the last finalizer goes."""
    body = config_map(namespace, "a")
    await api.create(CONFIG_MAPS, {**body, "metadata": {**metadata_of(body), "finalizers": ["example.com/wait"]}})
    await api.delete(CONFIG_MAPS, "a", namespace=namespace)
    assert "deletionTimestamp" in metadata_of(await api.get(CONFIG_MAPS, "a", namespace=namespace))
    await api.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, namespace=namespace)
    await _refused(Missing, api.get(CONFIG_MAPS, "a", namespace=namespace))


async def pages_hold_every_object_once(api: Api, namespace: str, forget: Forget) -> None:
    """Lists with a limit, by selection; a compaction between pages is Gone."""
    for number in range(7):
        await api.create(CONFIG_MAPS, config_map(namespace, f"a{number}", labels={"odd": str(number % 2)}))
    seen, rest, pages = [], None, 0
    while pages == 0 or rest is not None:
        page = await api.page(CONFIG_MAPS, Selection(namespace, labels="odd=0"), limit=3, rest=rest)
        seen += [name_of(one) for one in page.items]
        rest, pages = page.rest, pages + 1
        assert all((one["kind"], one["apiVersion"]) == ("ConfigMap", "v1") for one in page.items)
    assert (seen, pages) == (["a0", "a2", "a4", "a6"], 2)
    first = await api.page(CONFIG_MAPS, Selection(namespace), limit=3)
    assert first.rest is not None
    await api.create(CONFIG_MAPS, config_map(namespace, "later"))
    forget()
    with contextlib.suppress(Gone):  # the real one may have the page in its cache; then it is whole
        second = await api.page(CONFIG_MAPS, Selection(namespace), limit=100, rest=first.rest)
        assert [name_of(one) for one in (*first.items, *second.items)] == [f"a{number}" for number in range(7)]


async def a_watch_tells_what_happened_since_in_order(api: Api, namespace: str, forget: Forget) -> None:
    """Added, modified, deleted; before the watch began too."""
    since = (await api.page(CONFIG_MAPS, Selection(namespace))).resource_version
    made = await api.create(CONFIG_MAPS, config_map(namespace, "a", {"k": "1"}))
    changed = await api.replace(CONFIG_MAPS, {**made, "data": {"k": "2"}})
    await api.delete(CONFIG_MAPS, "a", namespace=namespace)
    heard = await _heard(api, Selection(namespace), since, 3)
    assert [(one.happening, one.object.get("data")) for one in heard] == [
        (Happening.ADDED, {"k": "1"}),
        (Happening.MODIFIED, {"k": "2"}),
        (Happening.DELETED, {"k": "2"}),
    ]
    assert [version_of(one.object) for one in heard[:2]] == [version_of(made), version_of(changed)]
    rest = await _heard(api, Selection(namespace), version_of(made), 2)
    assert [one.happening for one in rest] == [Happening.MODIFIED, Happening.DELETED]


async def a_watch_tells_what_enters_and_leaves_the_selection(api: Api, namespace: str, forget: Forget) -> None:
    """By label and by name."""
    since = (await api.page(CONFIG_MAPS, Selection(namespace))).resource_version
    for name in ("a", "b"):
        await api.create(CONFIG_MAPS, config_map(namespace, name))
    for label in ("yes", "no"):
        await api.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"in": label}}}, namespace=namespace)
    heard = await _heard(api, Selection(namespace, labels="in=yes"), since, 2)
    assert [(one.happening, name_of(one.object)) for one in heard] == [(Happening.ADDED, "a"), (Happening.DELETED, "a")]
    named = await _heard(api, Selection(namespace, fields="metadata.name=b"), since, 1)
    assert [name_of(one.object) for one in named] == ["b"]


async def a_bookmark_moves_on_while_others_write(api: Api, namespace: str, *, lasting_s: float) -> None:
    """A quiet selection stays resumable: its bookmark is newer than its last event. The real server sends one a minute."""
    quiet = Selection(namespace, labels="quiet=yes")
    since = (await api.page(CONFIG_MAPS, quiet)).resource_version
    await api.create(CONFIG_MAPS, config_map(namespace, "loud"))
    async with aclosing(api.watch(CONFIG_MAPS, quiet, since, lasting_s=lasting_s)) as events:
        bookmark = await anext(events)
    assert bookmark.happening is Happening.BOOKMARK
    assert version_of(bookmark.object) != since
    made = await api.create(CONFIG_MAPS, config_map(namespace, "a", labels={"quiet": "yes"}))
    [event] = await _heard(api, quiet, version_of(bookmark.object), 1)
    assert version_of(event.object) == version_of(made)


async def a_watch_ends_in_order(api: Api, namespace: str, forget: Forget) -> None:
    """After the time that was asked for, without an error."""
    since = (await api.page(CONFIG_MAPS, Selection(namespace))).resource_version
    async with aclosing(api.watch(CONFIG_MAPS, Selection(namespace), since, lasting_s=1)) as events:
        assert [one.happening async for one in events if one.happening is not Happening.BOOKMARK] == []


async def _heard(api: Api, selection: Selection, since: ResourceVersion, count: int) -> list[WatchEvent]:
    heard: list[WatchEvent] = []
    async with aclosing(api.watch(CONFIG_MAPS, selection, since, lasting_s=30)) as events:
        async for one in events:
            if one.happening is not Happening.BOOKMARK:
                heard.append(one)
            if len(heard) == count:
                return heard
    raise AssertionError(f"the watch ended after {heard}")


async def _refused(kind: type[Exception], asked: Awaitable[object]) -> None:
    try:
        await asked
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


CONTRACT: tuple[Check, ...] = (
    what_is_created_is_there_once,
    a_write_over_something_unseen_is_a_conflict,
    a_write_that_changes_nothing_makes_no_version,
    patches_change_what_they_name,
    appliers_own_what_they_name,
    only_the_one_that_was_meant_is_deleted,
    a_finalizer_delays_the_end,
    pages_hold_every_object_once,
    a_watch_tells_what_happened_since_in_order,
    a_watch_tells_what_enters_and_leaves_the_selection,
    a_watch_ends_in_order,
)
