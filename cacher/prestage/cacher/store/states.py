"""In what state an artifact is, read off the disk each time it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, PrestageError
from prestage.cacher.store.eviction import Parts


@dataclass(frozen=True, slots=True)
class Listing:
    """One artifact, as `prestage ls` shows it."""

    artifact: ArtifactId
    ref: str | None
    files: int
    bytes: int
    state: str
    """`staged` (whole, verified), `partial` (being fetched, or cut off), `damaged` (stage it again)."""
    holds: Sequence[Mapping[str, object]] = ()
    last_used: float = 0.0
    """Seconds since the epoch."""
    is_weak: bool = False
    """See `Manifest.weakness`."""


def state_of(parts: Parts, artifact: ArtifactId) -> str:
    """See `Listing.state`.

    Raises:
        NotFound: unknown here.
    """
    try:
        files = {file.path for file in parts.artifacts.manifest(artifact).files}
    except Corrupt:
        return "damaged"
    if not parts.views.exists(artifact):
        return "partial"
    binding = parts.artifacts.binding(artifact)
    right = binding.keys() == files and all(parts.blobs.has(blob) for blob in binding.values())
    return "staged" if right and parts.views.is_right(artifact, binding) else "damaged"


def listings(parts: Parts) -> list[Listing]:
    """Every artifact, whole or not."""
    names = {known.artifact: known.ref for known in parts.artifacts.refs()}
    return [_listing(parts, artifact, names.get(artifact)) for artifact in parts.artifacts.all()]


def _listing(parts: Parts, artifact: ArtifactId, ref: str | None) -> Listing:
    try:
        manifest = parts.artifacts.manifest(artifact)
        files, size, state = len(manifest.files), manifest.size_bytes, state_of(parts, artifact)
        is_weak = manifest.is_weak
    except PrestageError:
        files, size, state, is_weak = 0, 0, "damaged", False
    holds = [{"id": hold, **document} for hold, document in parts.holds.live(artifact).items()]
    return Listing(artifact, ref, files, size, state, holds, parts.views.last_used(artifact), is_weak)
