"""Which bytes that are here may stand for a file that was not fetched: knowing a digest grants nothing."""

from __future__ import annotations

from collections.abc import Collection

from prestage.cacher.digests import BlobId
from prestage.cacher.errors import PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.eviction import Parts


def reusable(parts: Parts, manifest: Manifest, file: FileEntry, trusted: Collection[str]) -> BlobId | None:
    """A blob of the stated SHA-256, or fetched as the very same file at the same version, that came from the same authority
    before, or whose authority is in `trusted`.
    """
    names: list[str] = [file.digest] if file.digest is not None and file.digest.startswith("sha256:") else []
    if file.is_pinned:
        names.append(ingests.identity(manifest, file))
    for alias in names:
        for blob in parts.blobs.named(alias):
            if _may_stand_for(parts, blob, alias, manifest=manifest, file=file, trusted=trusted):
                return blob
    return None


def _may_stand_for(
    parts: Parts, blob: BlobId, alias: str, *, manifest: Manifest, file: FileEntry, trusted: Collection[str]
) -> bool:
    try:
        meta = parts.blobs.meta(blob)
    except PrestageError:
        return False
    if meta.size_bytes != file.size_bytes or alias not in meta.digests | meta.files:
        return False
    return manifest.authority in meta.authorities or manifest.authority in trusted
