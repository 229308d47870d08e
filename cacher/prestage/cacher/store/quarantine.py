"""Quarantine: taking a damaged blob out of use, and whom that concerns.

What is damaged is refetched by whoever calls: `wanted` says which artifacts somebody holds. A reader that runs goes on with the
bytes it has mapped; the next open after the heal gets the right ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, ArtifactId, BlobId
from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.cacher.store.artifacts import KnownRef
from prestage.cacher.store.chunks import Verdict, examine, opened
from prestage.cacher.store.disk import translated, write_file
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.holds import HoldId

Identity = tuple[int, int]
"""Device and inode: the very file that was read."""


@dataclass(frozen=True, slots=True)
class Affected:
    """An artifact that is not whole any more."""

    artifact: ArtifactId
    paths: tuple[str, ...]
    """Its files that are damaged or missing."""
    refs: tuple[KnownRef, ...]
    """By what it can be staged again."""
    holds: Mapping[HoldId, Mapping[str, object]]
    """Who uses it now; the hold of a tree has the tree's name."""

    @property
    def is_wanted(self) -> bool:
        """Somebody holds it: stage it again now. The others may wait until they are asked for."""
        return bool(self.holds)

    def to_json(self) -> dict[str, object]:
        """For an event."""
        refs = [known.ref for known in self.refs]
        return {"artifact": self.artifact, "paths": list(self.paths), "refs": refs, "holds": list(self.holds)}


@dataclass(frozen=True, slots=True)
class DamageEvent:
    """A blob was found damaged and taken out of use: what running readers are to be told."""

    blob: BlobId
    why: str
    chunk_offset: int
    """Where the damage that was found begins, in bytes: a multiple of CHUNK_BYTES."""
    at: float
    """Seconds since the epoch."""
    affected: tuple[Affected, ...]

    @property
    def wanted(self) -> tuple[Affected, ...]:
        """What somebody holds: to be staged again now."""
        return tuple(one for one in self.affected if one.is_wanted)

    def to_json(self) -> dict[str, object]:
        """For logs and streams."""
        return {
            "event": "damaged",
            "blob": self.blob,
            "why": self.why,
            "chunk_offset": self.chunk_offset,
            "at": self.at,
            "affected": [one.to_json() for one in self.affected],
        }


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a reader's report came to."""

    verdict: Verdict
    event: DamageEvent | None = None
    """With DAMAGED."""


class Quarantine:
    """The owner's. Thread-safe: `lock` orders it against evict and publish; it is never held while a blob is read."""

    def __init__(self, parts: Parts, lock: AbstractContextManager[object]) -> None:
        self._parts, self._lock = parts, lock

    def suspect(self, blob: BlobId, offset: int) -> Suspicion:
        """Look at the chunk around `offset`, on the disk and in the page cache; condemn the blob if it is wrong.

        Raises:
            Misconfigured: outside of the blob.
            Corrupt: its meta is damaged: verify it.
            Unavailable: the disk failed.
        """
        path = self._parts.layout.blob(blob)
        if not self._parts.blobs.has(blob):
            return Suspicion(Verdict.GONE)
        meta, at = self._parts.blobs.meta(blob), offset - offset % CHUNK_BYTES
        if not 0 <= offset < meta.size_bytes:
            raise Misconfigured(f"byte {offset} of a file of {meta.size_bytes}", hint="report an offset inside of the file")
        number = at // CHUNK_BYTES * CHUNK_SUM_BYTES
        right = meta.chunk_sums[number : number + CHUNK_SUM_BYTES]
        try:
            with opened(path) as file:
                verdict, identity = examine(file, at, right), file.identity
        except FileNotFoundError:
            return Suspicion(Verdict.GONE)
        except OSError as exc:
            raise translated(exc, path) from exc
        if verdict is not Verdict.DAMAGED:
            return Suspicion(verdict)
        event = self.condemn(blob, identity, "a reader found a chunk that differs", at)
        return Suspicion(verdict, event) if event is not None else Suspicion(Verdict.GONE)

    def condemn(self, blob: BlobId, identity: Identity, why: str, chunk_offset: int) -> DamageEvent | None:
        """Take the file that was read out of use. None: it is gone or another one by now, which is no damage."""
        parts = self._parts
        with self._lock:
            if self.identity(blob) != identity:
                return None
            kept = parts.blobs.quarantine(blob)
            affected = self.affected(blob)
        with suppress(PrestageError):
            write_file(parts.disk, kept.with_name(f"{kept.name}.why"), f"{why}, at byte {chunk_offset}\n".encode())
        return DamageEvent(blob, why, chunk_offset, parts.now(), affected)

    def identity(self, blob: BlobId) -> Identity | None:
        """Which file is published under this name now."""
        try:
            status = self._parts.layout.blob(blob).stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def affected(self, blob: BlobId) -> tuple[Affected, ...]:
        """Artifacts with files of these bytes."""
        bindings = ((artifact, self._parts.artifacts.binding(artifact)) for artifact in self._parts.artifacts.all())
        hit = {artifact: [path for path, bound in binding.items() if bound == blob] for artifact, binding in bindings}
        return self._described({artifact: paths for artifact, paths in hit.items() if paths})

    def damaged(self) -> Sequence[Affected]:
        """Every artifact with a view whose bytes are not all here: what was condemned and not staged again since."""
        parts, found = self._parts, {}
        for artifact in parts.artifacts.all():
            binding = parts.artifacts.binding(artifact) if parts.views.exists(artifact) else {}
            if paths := [path for path, blob in binding.items() if not parts.blobs.has(blob)]:
                found[artifact] = paths
        return self._described(found)

    def _described(self, hit: Mapping[ArtifactId, Sequence[str]]) -> tuple[Affected, ...]:
        known = list(self._parts.artifacts.refs()) if hit else []
        return tuple(
            Affected(
                artifact,
                tuple(paths),
                tuple(ref for ref in known if ref.artifact == artifact),
                self._parts.holds.live(artifact),
            )
            for artifact, paths in hit.items()
        )
