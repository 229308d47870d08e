"""Which artifact a template got: `Artifact.status.templates`, written by the broker before it answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from prestage.api.brokerage import Resolved, Template
from prestage.control.demand.once import Once
from prestage.kube.ports import Object, metadata_of, namespace_of

REVISION: Final = "prestage.dev/revision"
"""Annotation of an Artifact: the immutable revision it was resolved to."""


class Line(NamedTuple):
    """One model of a template: what a revision is fixed for."""

    uid: str
    hash: str
    alias: str
    ref: str

    @property
    def template(self) -> Template:
        """Whose."""
        return Template(uid=self.uid, hash=self.hash)


@dataclass(frozen=True, slots=True)
class Question:
    """What the broker has to be asked where no record answers."""

    namespace: str
    line: Line
    service_account: str = "default"
    credentials: str | None = None
    pull_secrets: tuple[str, ...] = ()
    """Of an image."""


@dataclass(frozen=True, slots=True)
class Known:
    """An artifact, and the namespace that keeps it."""

    artifact: str
    size_bytes: int
    namespace: str
    revision: str | None = None
    files: int = 0


class Records:
    """Keeps what it read of each Artifact."""

    def __init__(self) -> None:
        self._read = Once(_lines)

    def look(self, artifacts: Iterable[Object]) -> dict[Line, Known]:
        """By template's model. Of two records for one (which nobody writes) the one of the lesser name counts, everywhere."""
        found: dict[Line, Known] = {}
        for _, lines in self._read.look(artifacts):
            for line, known in lines:
                if line not in found or known.artifact < found[line].artifact:
                    found[line] = known
        return found


def _lines(seen: Object) -> tuple[tuple[Line, Known], ...]:
    spec, status = seen.get("spec"), seen.get("status")
    uses = status.get("templates") if isinstance(status, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(uses, list):
        return ()
    size, files = spec.get("size"), spec.get("files")
    known = Known(
        str(spec.get("digest", "")),
        size if isinstance(size, int) else 0,
        namespace_of(seen) or "",
        _revision(seen),
        files=files if isinstance(files, int) else 0,
    )
    lines = (Line(*(str(use.get(name, "")) for name in Line._fields)) for use in uses if isinstance(use, Mapping))
    return tuple((line, known) for line in lines)


def _revision(seen: Object) -> str | None:
    annotations = metadata_of(seen).get("annotations")
    found = annotations.get(REVISION) if isinstance(annotations, Mapping) else None
    return str(found) if found else None


def known_by(answer: Resolved) -> Known:
    """What the broker just said, before its Artifact is seen."""
    return Known(answer.artifact, answer.size_bytes, answer.namespace, answer.revision, answer.files)
