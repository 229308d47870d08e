"""Which artifacts need which blobs, without reading all bindings at each evict.

Of an artifact whose files are all bound, what its binding says: read once, for only the owner writes bindings, in this process,
and `Artifacts` tells. Of any other it is found out at each question: a file that is not bound yet may be any blob that was once
fetched as it. Nothing is known by this alone that is not on disk; a binding that rots meanwhile keeps what it named.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import suppress

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, Misconfigured, NotFound
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.blobs import Blobs


class Uses:
    """Thread-safe. The owner's."""

    def __init__(self, artifacts: Artifacts, blobs: Blobs) -> None:
        self._artifacts, self._blobs = artifacts, blobs
        self._lock = threading.Lock()
        self._bound: dict[ArtifactId, frozenset[BlobId]] = {}
        """Those whose files are all bound."""
        self._users: dict[BlobId, int] = {}
        """How many of these name it."""
        self._unread: set[ArtifactId] | None = None
        """All others; None: nobody has asked yet."""
        artifacts.on_change = self._changed

    def of(self, artifact: ArtifactId) -> Collection[BlobId]:
        """What its binding names; for a file that it does not name, what may be its: a binding that was cut off or damaged."""
        with self._lock:
            known = self._bound.get(artifact)
            return known if known is not None else self._look_at(artifact)

    def shared(self, artifact: ArtifactId, blobs: Collection[BlobId]) -> set[BlobId]:
        """Those of `blobs` that another artifact needs too."""
        with self._lock:
            found = set[BlobId]()
            for other in list(self._others()):
                found.update(self._look_at(other) if other != artifact else ())
            own = self._bound.get(artifact, frozenset())
            found.update(blob for blob in blobs if self._users.get(blob, 0) > (blob in own))
            return found.intersection(blobs)

    def _changed(self, artifact: ArtifactId) -> None:
        with self._lock:
            for blob in self._bound.pop(artifact, ()):
                self._users[blob] -= 1
                if not self._users[blob]:
                    del self._users[blob]
            if self._unread is not None:
                self._unread.add(artifact)

    def _others(self) -> set[ArtifactId]:
        if self._unread is None:
            self._unread = set(self._artifacts.all())
        return self._unread

    def _look_at(self, artifact: ArtifactId) -> Collection[BlobId]:
        """Its blobs; from now on it is known, if that is all there will be, and forgotten, if it is gone."""
        blobs, is_bound = self._read(artifact)
        if is_bound:
            self._bound[artifact] = frozenset(blobs)
            for blob in self._bound[artifact]:
                self._users[blob] = self._users.get(blob, 0) + 1
        if is_bound or not (blobs or self._artifacts.is_known(artifact)):
            self._others().discard(artifact)
        return blobs

    def _read(self, artifact: ArtifactId) -> tuple[set[BlobId], bool]:
        """Its blobs, and whether all its files are bound."""
        binding = self._artifacts.binding(artifact)
        found, is_bound = set(binding.values()), False
        with suppress(NotFound, Corrupt, Misconfigured):
            manifest = self._artifacts.manifest(artifact)
            loose = [file for file in manifest.files if file.path not in binding]
            for file in loose:
                found.update(self._blobs.named(ingests.identity(manifest, file)))
                found.update(self._blobs.named(file.digest or ""))
            is_bound = not loose
        return found, is_bound
