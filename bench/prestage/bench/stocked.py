"""Stores with content of our own making, through the store's own steps: what serving and the store are measured on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prestage.cacher.digests import CHUNK_BYTES, ArtifactId, BlobId, chunk_sum, piece_count, piece_hasher, piece_span
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.ports import PieceRecord


@dataclass(frozen=True, slots=True)
class Patterns:
    """No selection."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stocked:
    """An artifact that the store holds now."""

    artifact: ArtifactId
    blobs: tuple[BlobId, ...]


def manifest_for(name: str, sizes: dict[str, int]) -> Manifest:
    """An artifact whose files have these sizes."""
    return manifest_of("bench:", name, [FileEntry(path, size, etag=f'"{name}-{path}"') for path, size in sizes.items()])


def stock(store: Store, name: str, sizes: dict[str, int]) -> Stocked:
    """Make `store` hold an artifact of random bytes: each step durable, as a stage does it."""
    manifest = manifest_for(name, sizes)
    artifact = store.put_manifest(manifest)
    found: dict[str, BlobId] = {}
    with store.reserve(sum(sizes.values()), artifact=artifact):
        for number, file in enumerate(manifest.files):
            with _ingesting(store, manifest, file) as ingest:
                ingest.journal(list(fill(ingest, file.size_bytes, seed=f"{name} {number}")))
                found[file.path] = ingest.finish()
        store.bind(artifact, found)
    store.publish_view(artifact)
    store.record_ref(f"bench://{name}", Patterns(), artifact)
    return Stocked(artifact, tuple(found.values()))


@contextmanager
def _ingesting(store: Store, manifest: Manifest, file: FileEntry) -> Iterator[Ingest]:
    ingest = store.ingest(manifest, file)
    try:
        yield ingest
    finally:
        ingest.close()


def fill(ingest: Ingest, size_bytes: int, *, seed: str) -> Iterator[PieceRecord]:
    """Write bytes that are the same for the same seed; yields the record of each piece."""
    dice = random.Random(seed)  # noqa: S311 - bytes, not a secret
    buffer = aligned_buffer(CHUNK_BYTES)
    for piece in range(piece_count(size_bytes)):
        start, stop = piece_span(size_bytes, piece)
        hasher, sums = piece_hasher(), bytearray()
        for at in range(start, stop, CHUNK_BYTES):
            view = buffer[: min(CHUNK_BYTES, stop - at)]
            view[:] = dice.randbytes(len(view))
            ingest.write(view, at)
            hasher.update(view)
            sums += chunk_sum(view)
        yield PieceRecord(piece, stop - start, hasher.digest(), bytes(sums))
