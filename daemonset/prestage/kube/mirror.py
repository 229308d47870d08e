"""A local copy of a selection of objects, and what changed in it: every change once, in order, whatever the network did. Pure.

A list replaces the copy and says the differences; a watch event changes one object. An object is the same while its UID is,
and unchanged while its resourceVersion is: a change that was seen is not said again, one that was missed is said by the next
list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prestage.kube.ports import Happening, Object, WatchEvent, name_of, namespace_of, uid_of, version_of

Key = tuple[str | None, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Appeared:
    """It was not there before."""

    object: Object


@dataclass(frozen=True, slots=True)
class Changed:
    """It is another than it was. States in between may have been skipped."""

    before: Object
    object: Object


@dataclass(frozen=True, slots=True)
class Vanished:
    """It is gone; `object` is the last that was seen of it."""

    object: Object


@dataclass(frozen=True, slots=True)
class Synced:
    """The copy is whole: as the API server had it a moment ago. Said after every list."""


Change = Appeared | Changed | Vanished | Synced


def without_managed_fields(seen: Object) -> Object:
    """Half of an object is who wrote which field: nobody here reads it."""
    found = seen.get("metadata")
    if not isinstance(found, Mapping) or "managedFields" not in found:
        return seen
    return {**seen, "metadata": {name: value for name, value in found.items() if name != "managedFields"}}


@dataclass(slots=True)
class Mirror:
    """The copy. `keep` trims what comes in: it must leave metadata's name, namespace, uid and resourceVersion."""

    keep: Callable[[Object], Object] = without_managed_fields
    _held: dict[Key, Object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._held.values()))

    def get(self, name: str, namespace: str | None = None) -> Object | None:
        """One object as it was seen last."""
        return self._held.get((namespace, name))

    def replace(self, listed: Iterable[Object]) -> list[Change]:
        """Take a whole list in."""
        fresh = {key_of(one): self.keep(one) for one in listed}
        changes: list[Change] = [Vanished(held) for key, held in self._held.items() if key not in fresh]
        for key, one in fresh.items():
            changes += self._against(self._held.get(key), one)
        self._held = fresh
        return [*changes, Synced()]

    def take(self, event: WatchEvent) -> list[Change]:
        """Take one watch event in."""
        if event.happening is Happening.BOOKMARK:
            return []
        key, one = key_of(event.object), self.keep(event.object)
        held = self._held.get(key)
        if event.happening is Happening.DELETED:
            if held is None or uid_of(held) != uid_of(one):
                return []
            del self._held[key]
            return [Vanished(one)]
        changes = self._against(held, one)
        self._held[key] = one
        return changes

    def _against(self, held: Object | None, one: Object) -> list[Change]:
        if held is None:
            return [Appeared(one)]
        if uid_of(held) != uid_of(one):
            return [Vanished(held), Appeared(one)]
        return [] if version_of(held) == version_of(one) else [Changed(held, one)]


def key_of(seen: Object) -> Key:
    """Namespace and name."""
    return namespace_of(seen), name_of(seen)
