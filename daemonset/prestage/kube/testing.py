"""`FakeApi`: an API server in memory, for tests of what decides and acts on objects. contract.py holds for both.

What the fake has: resourceVersions, watches with history and compaction, pages, conflicts, generations, the status subresource,
merge and JSON patches, server-side apply with ownership of fields (a list is one field), finalizers, deletion by UID. What it
has not: schemas, admission, RBAC, strategic merge; tests of those run on the real one (tests/cluster).
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from prestage.cacher.errors import PrestageError
from prestage.kube.errors import Conflict, Gone, Invalid, Missing, Unreachable
from prestage.kube.ports import (
    EVERYTHING,
    Happening,
    Object,
    Page,
    PatchType,
    Resource,
    ResourceVersion,
    Selection,
    WatchEvent,
    metadata_of,
    name_of,
    namespace_of,
    uid_of,
    version_of,
)

Tree = dict[str, object]
Place = tuple[Resource, str | None, str]
Path = tuple[str, ...]
_WITHOUT_STATUS = frozenset({"ConfigMap", "Secret", "Lease", "Event", "StagedModelGrant"})
_SERVERS_OWN = frozenset({"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields"})


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    place: Place
    event: WatchEvent
    before: Object | None


@dataclass(slots=True)
class _Watcher:
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    cut: bool = False


class FakeApi:
    """`fail`: errors to raise from the next requests, first to last. Every write is in `writes` (verb, place)."""

    def __init__(self) -> None:
        self._objects: dict[Place, Tree] = {}
        self._owned: dict[tuple[Place, str, str], set[Path]] = {}
        self._history: list[_Entry] = []
        self._version = 100
        self._forgotten = 100
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        self._watchers: list[_Watcher] = []
        self.fail: list[PrestageError] = []
        self.writes: list[tuple[str, Place]] = []

    # what a test does to it

    def compact(self) -> None:
        """Forget all history, and every half-read list."""
        self._history.clear()
        self._pages.clear()
        self._forgotten = self._version

    def cut(self) -> None:
        """Break every watch off, as a restart does."""
        for watcher in self._watchers:
            watcher.cut = True
            watcher.woken.set()

    # Api

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        """See ports.Api."""
        self._maybe_fail()
        return copy.deepcopy(self._there((resource, namespace, name)))

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        """See ports.Api."""
        self._maybe_fail()
        if rest is not None and rest not in self._pages:
            raise Gone(f"list {resource.plural}: the continue token is from before a compaction")
        version, items = self._pages.pop(rest) if rest is not None else (self._version, list(self._selected(resource, selection)))
        taken, left = (items, []) if limit is None else (items[:limit], items[limit:])
        token = str(uuid.uuid4()) if left else None
        if token is not None:
            self._pages[token] = (version, left)
        return Page(tuple(taken), ResourceVersion(str(version)), token)

    async def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        """See ports.Api. Ends with a bookmark."""
        self._maybe_fail()
        seen, watcher = int(since), _Watcher()
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + lasting_s
        self._watchers.append(watcher)
        try:
            while True:
                if seen < self._forgotten:
                    raise Gone(f"watch {resource.plural}: too old resource version: {seen}")
                watcher.woken.clear()
                for entry in [one for one in self._history if one.version > seen]:
                    seen = entry.version
                    if event := _as_selected(entry, resource, selection):
                        yield event
                if watcher.cut:
                    raise Unreachable(f"watch {resource.plural}: the connection was cut")
                try:
                    async with asyncio.timeout_at(ends_s):
                        await watcher.woken.wait()
                except TimeoutError:
                    yield WatchEvent(Happening.BOOKMARK, {"metadata": {"resourceVersion": str(self._version)}})
                    return
        finally:
            self._watchers.remove(watcher)

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """See ports.Api."""
        self._maybe_fail()
        if subresource is not None:
            raise Invalid(f"create {resource.plural}/{subresource}: the fake has no such subresource")
        place = (resource, namespace or namespace_of(body), name_of(body))
        if place in self._objects:
            raise Conflict(f"create {resource.plural}/{place[2]}: already exists")
        return self._store(place, copy.deepcopy(dict(body)), "create", None)

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        """See ports.Api."""
        self._maybe_fail()
        place = (resource, namespace_of(body), name_of(body))
        held = self._there(place)
        if version_of(body) not in ("", version_of(held)):
            raise Conflict(f"replace {resource.plural}/{place[2]}: the object has been modified")
        return self._store(place, copy.deepcopy(dict(body)), "replace", subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object | list[Object],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        type: PatchType = PatchType.MERGE,  # noqa: A002
    ) -> Object:
        """See ports.Api."""
        self._maybe_fail()
        place = (resource, namespace, name)
        made = copy.deepcopy(self._there(place))
        if type is PatchType.MERGE and isinstance(body, Mapping):
            made = cast(Tree, _merged(made, body))
        elif type is PatchType.JSON and isinstance(body, list):
            for step in body:
                _json_patch(made, step)
        else:
            raise Invalid(f"patch {resource.plural}/{name}: the fake has no {type}")
        wanted = metadata_of(made).get("resourceVersion")
        if wanted != version_of(self._there(place)):
            raise Conflict(f"patch {resource.plural}/{name}: the object has been modified")
        return self._store(place, made, "patch", subresource)

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        """See ports.Api."""
        self._maybe_fail()
        place = (resource, namespace_of(body), name_of(body))
        held = self._objects.get(place)
        if held is None and subresource is not None:
            raise Missing(f"apply {resource.plural}/{place[2]}: not found")
        wanted = dict(_leaves(body))
        made: Tree = copy.deepcopy(held) if held is not None else {"metadata": dict(metadata_of(body))}
        me = (place, manager, subresource or "")
        others = {key: paths for key, paths in self._owned.items() if key[0] == place and key != me}
        for path, value in wanted.items():
            owners = [key for key, paths in others.items() if path in paths]
            if owners and _at(made, path) != value:
                if not force:
                    raise Conflict(f'apply {resource.plural}/{place[2]}: conflict with "{owners[0][1]}": .{".".join(path)}')
                for key in owners:
                    self._owned[key].discard(path)
            _set(made, path, copy.deepcopy(value))
        for path in self._owned.get(me, set()) - wanted.keys():
            if not any(path in paths for paths in others.values()):
                _remove(made, path)
        stored = self._store(place, made, "apply", subresource)
        self._owned[me] = set(wanted)
        return stored

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, grace_s: int | None = None
    ) -> None:
        """See ports.Api."""
        self._maybe_fail()
        place = (resource, namespace, name)
        held = self._there(place)
        if uid is not None and uid != uid_of(held):
            raise Conflict(f"delete {resource.plural}/{name}: the UID is another")
        if metadata_of(held).get("finalizers"):
            going = copy.deepcopy(held)
            cast(Tree, going["metadata"]).setdefault("deletionTimestamp", _now())
            self._store(place, going, "delete", None)
            return
        self.writes.append(("delete", place))
        self._drop(place)

    # how it is kept

    def _maybe_fail(self) -> None:
        if self.fail:
            raise self.fail.pop(0)

    def _there(self, place: Place) -> Tree:
        if place not in self._objects:
            raise Missing(f'{place[0].plural} "{place[2]}" not found')
        return self._objects[place]

    def _selected(self, resource: Resource, selection: Selection) -> Iterator[Object]:
        for place, held in sorted(self._objects.items(), key=lambda pair: (pair[0][1] or "", pair[0][2])):
            if place[0] == resource and _matches(held, selection):
                yield copy.deepcopy(held)

    def _store(self, place: Place, made: Tree, verb: str, subresource: str | None) -> Object:
        resource, namespace, name = place
        if not name or (resource.namespaced and namespace is None):
            raise Invalid(f"{verb} {resource.plural}: a name{' and a namespace are' if resource.namespaced else ' is'} needed")
        held = self._objects.get(place)
        made |= {"apiVersion": resource.group_version, "kind": resource.kind}
        if held is not None:
            made = _kept_apart(held, made, resource, subresource)
        made["metadata"] = self._metadata(place, made, held, verb)
        self.writes.append((verb, place))
        if held is not None and _without_version(held) == _without_version(made):
            return copy.deepcopy(held)
        if held is None and resource.kind not in _WITHOUT_STATUS:
            made.pop("status", None)
        self._version += 1
        cast(Tree, made["metadata"])["resourceVersion"] = str(self._version)
        self._objects[place] = made
        self._note(place, Happening.ADDED if held is None else Happening.MODIFIED, made, held)
        if metadata_of(made).get("deletionTimestamp") and not metadata_of(made).get("finalizers"):
            self._drop(place)
        return copy.deepcopy(made)

    def _metadata(self, place: Place, made: Tree, held: Object | None, verb: str) -> Tree:
        fields: Tree = {key: value for key, value in metadata_of(made).items() if key not in _SERVERS_OWN}
        fields["name"] = place[2]
        if place[0].namespaced:
            fields["namespace"] = place[1]
        if held is None:
            return {**fields, "uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
        old = metadata_of(held)
        generation = cast(int, old["generation"]) + (held.get("spec") != made.get("spec"))
        kept = {"uid": old["uid"], "creationTimestamp": old["creationTimestamp"], "generation": generation}
        going = metadata_of(made).get("deletionTimestamp") if verb == "delete" else old.get("deletionTimestamp")
        return {**fields, **kept, **({"deletionTimestamp": going} if going else {}), "resourceVersion": old["resourceVersion"]}

    def _drop(self, place: Place) -> None:
        held = self._objects.pop(place)
        self._owned = {key: paths for key, paths in self._owned.items() if key[0] != place}
        self._version += 1
        last = copy.deepcopy(held)
        cast(Tree, last["metadata"])["resourceVersion"] = str(self._version)
        self._note(place, Happening.DELETED, last, held)

    def _note(self, place: Place, happening: Happening, now: Tree, before: Object | None) -> None:
        event = WatchEvent(happening, copy.deepcopy(now))
        self._history.append(_Entry(self._version, place, event, before))
        for watcher in self._watchers:
            watcher.woken.set()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kept_apart(held: Tree, made: Tree, resource: Resource, subresource: str | None) -> Tree:
    """What each of the two endpoints leaves as it was."""
    if resource.kind in _WITHOUT_STATUS:
        return made
    if subresource == "status":
        return {**copy.deepcopy(held), **({"status": made["status"]} if "status" in made else {})}
    kept = {key: value for key, value in made.items() if key != "status"}
    return {**kept, **({"status": copy.deepcopy(held["status"])} if "status" in held else {})}


def _without_version(seen: Object) -> Tree:
    fields = {key: value for key, value in metadata_of(seen).items() if key != "resourceVersion"}
    return {**seen, "metadata": fields}


def _as_selected(entry: _Entry, resource: Resource, selection: Selection) -> WatchEvent | None:
    """An object that comes into the selection is added to it, one that leaves is deleted from it."""
    if entry.place[0] != resource:
        return None
    seen = entry.event
    before = entry.before is not None and _matches(entry.before, selection)
    now = _matches(seen.object, selection)
    if seen.happening is Happening.DELETED:
        return seen if now or before else None
    if now:
        return WatchEvent(Happening.MODIFIED if before else Happening.ADDED, seen.object)
    return WatchEvent(Happening.DELETED, seen.object) if before else None


def _matches(seen: Object, selection: Selection) -> bool:
    if selection.namespace is not None and namespace_of(seen) != selection.namespace:
        return False
    labels = metadata_of(seen).get("labels") or {}
    for term in filter(None, (selection.labels or "").split(",")):
        key, equals, value = term.partition("=")
        if not isinstance(labels, Mapping) or key not in labels or (equals and labels[key] != value):
            return False
    terms = [term.partition("=") for term in filter(None, (selection.fields or "").split(","))]
    return all(_at(seen, tuple(key.split("."))) == value for key, _, value in terms)


def _merged(old: object, change: object) -> object:
    """RFC 7386."""
    if not isinstance(change, Mapping):
        return change
    made = dict(old) if isinstance(old, Mapping) else {}
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _json_patch(made: Tree, step: Object) -> None:
    """RFC 6902's add, replace, remove and test, in objects; "-" and numbers in lists."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in str(step["path"]).split("/")[1:]]
    at: object = made
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else cast(Tree, at).get(part)
    if isinstance(at, list):
        number = len(at) if last == "-" else int(last)
        if step["op"] == "add":
            at.insert(number, copy.deepcopy(step["value"]))
            return
        at_list = dict(enumerate(at))
        _json_step(cast("dict[object, object]", at_list), number, step)
        at[:] = [at_list[key] for key in sorted(at_list)]
    elif isinstance(at, dict):
        _json_step(at, last, step)
    else:
        raise Invalid(f"patch: there is nothing at {step['path']}")


def _json_step(at: dict[object, object], key: object, step: Object) -> None:
    if step["op"] in ("replace", "remove", "test") and key not in at:
        raise Invalid(f"patch: there is nothing at {step['path']}")
    if step["op"] == "test":
        if at[key] != step["value"]:
            raise Invalid(f"patch: testing {step['path']} failed")
    elif step["op"] == "remove":
        del at[key]
    else:
        at[key] = copy.deepcopy(step["value"])


def _leaves(body: Object) -> Iterator[tuple[Path, object]]:
    """What an applier names: fields that are no objects, but neither kind nor name."""
    for key, value in body.items():
        if key in ("apiVersion", "kind"):
            continue
        if isinstance(value, Mapping) and value:
            for path, leaf in _leaves(value):
                if (key, *path) not in {("metadata", "name"), ("metadata", "namespace")}:
                    yield (key, *path), leaf
        else:
            yield (key,), value


def _at(seen: object, path: Path) -> object:
    for part in path:
        seen = seen.get(part) if isinstance(seen, Mapping) else None
    return seen


def _set(made: Tree, path: Path, value: object) -> None:
    at = made
    for part in path[:-1]:
        inner = at.get(part)
        at[part] = at = dict(inner) if isinstance(inner, Mapping) else {}
    at[path[-1]] = value


def _remove(made: Tree, path: Path) -> None:
    """What has nothing left goes with it."""
    inner = made.get(path[0])
    if len(path) == 1:
        made.pop(path[0], None)
    elif isinstance(inner, dict):
        _remove(inner, path[1:])
        if not inner:
            del made[path[0]]
