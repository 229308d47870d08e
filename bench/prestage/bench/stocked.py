"""Stores with content of our own making, through the store's own steps: what serving and the store are measured on."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import CHUNK_BYTES, ArtifactId, BlobId, Digest, chunk_sum, piece_count, piece_hasher, piece_span
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.layout import Layout
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


def ref_of(name: str) -> str:
    """By which `stock` remembers it."""
    return f"file:///bench/{name}"


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
    store.record_ref(ref_of(name), Patterns(), artifact)
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


def scatter(root: Path, count: int) -> None:
    """Small blobs as a publish leaves them, without its fsyncs: a store of so many is what opening and listing meet.

    Nothing binds them. The store must be closed.
    """
    for number in range(count):
        data = b"blob %d" % number
        hasher = piece_hasher()
        hasher.update(data)
        alias = Digest(f"sha256:{number:064x}")
        meta = BlobMeta(len(data), (hasher.digest(),), chunk_sum(data), frozenset({alias}), frozenset({"bench:"}))
        path = Layout(root).blob(meta.blob)
        path.parent.mkdir(exist_ok=True)
        for place, raw in ((path, data), (Layout(root).meta(meta.blob), meta.to_bytes())):
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)
            os.write(fd, raw)
            os.close(fd)
