"""Which artifacts pod templates got, as Artifacts record it; kept from change to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from prestage.api.artifacts import Artifact
from prestage.api.reading import Invalid, read
from prestage.control.demand.image_lines import platform_of, repository_of
from prestage.control.gates.touched import Use
from prestage.control.podspec import part
from prestage.kube.mirror import Appeared, Changed, Key, Vanished, key_of
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Record:
    """In an Artifact's status: its namespace, and what the artifact is."""

    namespace: str
    digest: str


@dataclass(slots=True)
class Records:
    """Of all Artifacts."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes by digest."""
    _records: dict[Use, list[Record]] = field(default_factory=dict)
    _named: dict[Key, list[Use]] = field(default_factory=dict)
    _uses: dict[str, dict[Key, list[Use]]] = field(default_factory=dict)
    _owned: set[tuple[str, str]] = field(default_factory=set)
    _repositories: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Namespace and repository of images: how many records."""

    def of(self, use: Use) -> Sequence[Record]:
        """In every namespace."""
        return self._records.get(use, ())

    def uses(self, digests: Iterable[str]) -> Iterator[Use]:
        """What got any of these."""
        return (use for digest in digests for found in self._uses.get(digest, {}).values() for use in found)

    def has(self, namespace: str, digest: str) -> bool:
        """Whether the namespace resolved it."""
        return (namespace, digest) in self._owned

    def has_images_of(self, namespace: str, repository: str) -> bool:
        """Whether the namespace resolved one of this repository."""
        return self._repositories[namespace, repository] > 0

    def note(self, change: Appeared | Changed | Vanished) -> Set[Use]:
        """Take an Artifact in: what it named before, or names now."""
        key = key_of(change.object)
        namespace, digest = key[0] or "", str(part(change.object, "spec").get("digest", ""))
        before = self._named.pop(key, [])
        for use in before:
            kept = [one for one in self._records.get(use, ()) if one.namespace != namespace]
            self._records.pop(use, None)
            if kept:
                self._records[use] = kept
        self._uses.get(digest, {}).pop(key, None)
        after = [] if isinstance(change, Vanished) else self._read(key, change.object)
        if after:
            self._uses.setdefault(digest, {})[key] = after
        elif not self._uses.get(digest):
            self._uses.pop(digest, None)
        if isinstance(change, Vanished):
            self._owned.discard((namespace, digest))
        self._count(namespace, before, -1)
        self._count(namespace, after, 1)
        return {*before, *after}

    def _read(self, key: Key, seen: Object) -> list[Use]:
        try:
            artifact = read(Artifact, seen)
        except Invalid:
            return []
        digest, namespace = artifact.spec.digest, key[0] or ""
        self._owned.add((namespace, digest))
        self.sizes[digest] = artifact.spec.size
        uses = (artifact.status.templates if artifact.status else None) or ()
        self._named[key] = [(one.uid, one.hash, one.alias, one.ref) for one in uses]
        for use in self._named[key]:
            self._records.setdefault(use, []).append(Record(namespace, digest))
        return self._named[key]

    def _count(self, namespace: str, uses: Iterable[Use], count: int) -> None:
        for use in uses:
            if platform_of(use[2]) is not None:
                named = namespace, repository_of(use[3])
                self._repositories[named] += count
                if not self._repositories[named]:
                    del self._repositories[named]
