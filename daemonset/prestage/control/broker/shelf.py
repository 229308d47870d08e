"""Which Artifacts there are, where, and which template got which: an index over objects as they were seen last. Pure."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from prestage.api.artifacts import SourceAccess, TemplateUse
from prestage.api.models import StagedModel
from prestage.control.access import completed, revoked
from prestage.control.broker.sources import Trace, content_of, named_as
from prestage.kube.ports import Object, metadata_of, name_of, namespace_of

_Outer = TypeVar("_Outer")
_Inner = TypeVar("_Inner")
TRACES = "prestage.dev/sources"
"""Annotation of an Artifact: how it is fetched again, newest first."""
TRACES_MAX = 16
CONTENT = "prestage.dev"
"""The alias of a StagedModel's own record; no pod can use it as one beside it, for the UID is the model's."""
REVISION = "prestage.dev/revision"
"""Annotation of an Artifact: the commit it is, where its origin has commits."""


def object_name(digest: str) -> str:
    """`sha256-<hex>`."""
    return digest.replace(":", "-", 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """An Artifact without its manifest."""

    namespace: str
    digest: str
    ref: str | None
    files: int
    size_bytes: int
    manifest_chars: int
    templates: tuple[TemplateUse, ...]
    traces: tuple[Trace, ...]
    revision: str | None = None
    access: tuple[SourceAccess, ...] = ()
    """For each trace, in their order."""

    def revoked(self, source: str) -> SourceAccess | None:
        """What blocks new mounts by this name; None: nothing does."""
        return revoked(self.access, source)

    def use(self, uid: str, hash_: str, alias: str | None, ref: str | None) -> TemplateUse | None:
        """The record of a template; None for alias or ref: any."""
        for one in self.templates:
            if (one.uid, one.hash) == (uid, hash_) and alias in (None, one.alias) and ref in (None, one.ref):
                return one
        return None

    def names(self, ref: str) -> bool:
        """Somebody got it by this very text."""
        return any(one.ref == ref for one in self.templates)


def kept(seen: Object) -> Kept:
    """Of an Artifact, whole or trimmed."""
    spec = seen.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    manifest = spec.get("manifest")
    chars = spec.get("manifestChars") if manifest is None else len(str(manifest))
    return Kept(
        namespace_of(seen) or "",
        str(spec.get("digest", "")),
        str(spec["ref"]) if spec.get("ref") else None,
        _number(spec.get("files")),
        _number(spec.get("size")),
        _number(chars),
        tuple(uses_in(seen)),
        traces_in(seen),
        _annotation(seen, REVISION),
        tuple(access_in(seen)),
    )


def uses_in(seen: Object) -> list[TemplateUse]:
    """Which templates got it."""
    status = seen.get("status")
    found = status.get("templates") if isinstance(status, Mapping) else None
    return msgspec.convert(found, list[TemplateUse]) if found else []


def access_in(seen: Object) -> list[SourceAccess]:
    """A row for each of its traces. Without one yet: proved when the Artifact was made."""
    status = seen.get("status")
    found = status.get("access") if isinstance(status, Mapping) else None
    try:
        rows = msgspec.convert(found, list[SourceAccess]) if found else []
    except msgspec.ValidationError:
        rows = []  # of a later version: looked at anew
    return completed(rows, [named_as(one) for one in traces_in(seen)], _created(seen))


def trimmed(seen: Object) -> Object:
    """What a mirror keeps of it: a manifest may be a mebibyte."""
    spec, status = seen.get("spec"), seen.get("status")
    spec = dict(spec) if isinstance(spec, Mapping) else {}
    status = dict(status) if isinstance(status, Mapping) else {}
    status.pop("binding", None)
    spec["manifestChars"] = len(str(spec.pop("manifest", "")))
    head = {name: value for name, value in metadata_of(seen).items() if name != "managedFields"}
    return {**seen, "metadata": head, "spec": spec, "status": status}


def traces_in(seen: Object) -> tuple[Trace, ...]:
    """What the annotation says; nothing where it cannot be read."""
    text = _annotation(seen, TRACES)
    try:
        return tuple(msgspec.json.decode(text, type=list[Trace])) if text else ()
    except msgspec.DecodeError:
        return ()


class Shelf:
    """All of them."""

    def __init__(self) -> None:
        self._by_digest: defaultdict[str, dict[str, Kept]] = defaultdict(dict)
        self._by_template: defaultdict[tuple[str, str], dict[tuple[str, str], Kept]] = defaultdict(dict)
        self._by_namespace: defaultdict[str, dict[str, Kept]] = defaultdict(dict)

    def put(self, seen: Object) -> None:
        """It appeared or changed."""
        self.drop(seen)
        one = kept(seen)
        self._by_digest[one.digest][one.namespace] = one
        self._by_namespace[one.namespace][one.digest] = one
        for use in one.templates:
            self._by_template[use.uid, use.hash][one.namespace, one.digest] = one

    def drop(self, seen: Object) -> None:
        """It is gone."""
        namespace, digest = namespace_of(seen) or "", name_of(seen).replace("-", ":", 1)
        before = self._by_namespace[namespace].pop(digest, None)
        if before is None:
            return
        if not self._by_namespace[namespace]:
            del self._by_namespace[namespace]
        _without(self._by_digest, digest, namespace)
        for key in {(use.uid, use.hash) for use in before.templates}:
            _without(self._by_template, key, (namespace, digest))

    def holders(self, digest: str) -> tuple[Kept, ...]:
        """In every namespace that has it."""
        return tuple(self._by_digest[digest].values()) if digest in self._by_digest else ()

    def at(self, namespace: str, digest: str) -> Kept | None:
        """In one namespace."""
        return self._by_namespace[namespace].get(digest) if namespace in self._by_namespace else None

    def all(self) -> Iterator[Kept]:
        """In every namespace."""
        for held in self._by_digest.values():
            yield from held.values()

    def of(self, namespace: str) -> tuple[Kept, ...]:
        """All of a namespace."""
        return tuple(self._by_namespace[namespace].values()) if namespace in self._by_namespace else ()

    def content(self, model: StagedModel) -> Kept | None:
        """What a StagedModel was resolved to, as it says now; None: it is not resolved yet."""
        uid, namespace = model.metadata.uid or "", model.metadata.namespace or ""
        return self.recorded(namespace, uid, content_of(model), CONTENT, None)

    def recorded(self, owner: str, uid: str, hash_: str, alias: str | None, ref: str | None) -> Kept | None:
        """What a template got; None for alias or ref: any."""
        found = self._by_template[uid, hash_].values() if (uid, hash_) in self._by_template else ()
        return recorded((one for one in found if one.namespace == owner), uid, hash_, alias, ref)


def recorded(among: Iterable[Kept], uid: str, hash_: str, alias: str | None, ref: str | None) -> Kept | None:
    """The one with the record."""
    return next((one for one in among if one.use(uid, hash_, alias, ref) is not None), None)


def _without(index: dict[_Outer, dict[_Inner, Kept]], key: _Outer, inner: _Inner) -> None:
    index[key].pop(inner, None)
    if not index[key]:
        del index[key]


def _annotation(seen: Object, name: str) -> str | None:
    annotations = metadata_of(seen).get("annotations")
    value = annotations.get(name) if isinstance(annotations, Mapping) else None
    return value if isinstance(value, str) else None


def _created(seen: Object) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(str(metadata_of(seen).get("creationTimestamp")))
    except ValueError:
        return datetime.datetime.fromtimestamp(0, datetime.UTC)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
