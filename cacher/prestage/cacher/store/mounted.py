"""Trees that are for pods' mounts: what is there, and since when. They last until they are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.composing import Part
from prestage.cacher.store.disk import disk_errors
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.holds import HoldId, boot_id
from prestage.cacher.store.hub_layout import repository_of
from prestage.cacher.store.locks import gate
from prestage.cacher.store.trees import Tree

KNOWN_MAX = 1000
NAME = "model"
"""Of the folder, until a pod gives it another."""


@dataclass(frozen=True, slots=True)
class MountTree:
    """One of them."""

    tree: Tree
    this_boot: bool
    """It was asked for since the machine was booted."""
    held_s: float


class Mounted:
    """Of one store. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._repositories: dict[ArtifactId, str | None] = {}
        """By what never changes: a pod's volume does not read a thousand files' names for it."""

    @disk_errors()
    def all(self) -> Sequence[MountTree]:
        """Those that are there."""
        holds, found = self._parts.holds, []
        for tree in self._parts.trees.all():
            if tree.plan.mount is not None and tree.parts:
                document = holds.all(tree.parts[0].artifact).get(tree.hold, {})
                found.append(MountTree(tree, document.get("boot") == boot_id(), holds.held_s(document)))
        return found

    def path(self, hold: HoldId) -> Path:
        """Where what is under a hold is, or would be."""
        return self._parts.layout.mount(hold)

    @disk_errors()
    def part(self, name: str, artifact: ArtifactId, *, repo: str | None, revision: str | None) -> Part:
        """One of a pod's tree: in the repository and at the revision that are given, else in those that it came from.

        Raises:
            NotFound: not staged here.
            Corrupt: its manifest is damaged: stage it again.
        """
        repo = repo or self._repository(artifact)
        if repo is None:
            return Part(name, artifact)
        return Part(name, artifact, repo, revision or self._parts.artifacts.revision_of(artifact, artifact))

    @disk_errors()
    def prepare(self, artifact: ArtifactId) -> None:
        """Compose what pods with this one artifact will share, before the first asks.

        Raises:
            NotFound: not staged here.
            Corrupt: damaged.
        """
        part = self.part(NAME, artifact, repo=None, revision=None)
        with gate(self._parts.layout.gate):
            self._parts.trees.prepare(Part(part.name, part.artifact, part.repo))

    def _repository(self, artifact: ArtifactId) -> str | None:
        if artifact not in self._repositories:
            repository = repository_of(self._parts.artifacts.manifest(artifact))
            if len(self._repositories) >= KNOWN_MAX:
                self._repositories.clear()
            self._repositories[artifact] = repository
        return self._repositories[artifact]
