"""Damage: what readers and the scrubber find, and what a store does about it. The owner's. See `quarantine`, `scrubber`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import NotFound
from prestage.cacher.store.disk import disk_errors
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.quarantine import Affected, Quarantine, Suspicion
from prestage.cacher.store.scrubber import Scrubber
from prestage.cacher.store.states import state_of


class Damage:
    """Of one store. Thread-safe; `heal` makes a view show the published blobs again."""

    def __init__(self, parts: Parts, lock: AbstractContextManager[object], *, heal: Callable[[ArtifactId], object]) -> None:
        self._parts, self._heal = parts, heal
        self._quarantine = Quarantine(parts, lock)

    @disk_errors()
    def suspect(self, artifact: ArtifactId, path: str, offset: int) -> Suspicion:
        """A reader says that the bytes of `path` around `offset` are wrong: look, and do what helps. Reads one chunk, holding no
        lock; takes the blob out of use if it is damaged; puts right a view that does not show the published blob.

        Raises:
            NotFound: no such artifact or file here.
            Misconfigured: an offset outside of the file.
        """
        parts = self._parts
        binding = parts.artifacts.binding(artifact)
        if path not in binding:
            parts.artifacts.manifest(artifact)
            raise NotFound(f"{artifact} has no file {path[:120]!r}", hint="report the path as it stands in the manifest")
        suspicion = self._quarantine.suspect(binding[path], offset)
        is_whole = all(parts.blobs.has(blob) for blob in binding.values())
        if suspicion.event is None and is_whole and state_of(parts, artifact) == "damaged":
            self._heal(artifact)
        return suspicion

    def scrubber(self) -> Scrubber:
        """A cursor that reads every blob again, for the owner to drive when it is idle."""
        return Scrubber(self._parts, self._quarantine)

    @disk_errors()
    def affected(self) -> Sequence[Affected]:
        """Artifacts that lack bytes which were taken out of use: to be staged again if they are wanted, else when asked for."""
        return self._quarantine.damaged()
