"""Artifacts from nothing: their manifests, their bytes into an ingest as the engine would put them, a whole stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prestage.cacher.digests import (
    CHUNK_BYTES,
    ArtifactId,
    BlobId,
    Digest,
    chunk_sum,
    piece_count,
    piece_hasher,
    piece_span,
    tree_digest,
)
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.store.ingest import Ingest, finish_all
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.ports import PieceRecord


@dataclass(frozen=True, slots=True)
class Patterns:
    """A selection, without importing the origins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """An artifact and the bytes that its origin serves."""

    contents: Mapping[str, bytes]
    name: str = "hf://org/name@main"
    authority: str = "hf:https://hub.test/org/name"
    states_sha256: bool = True
    version: str = "1"

    @property
    def manifest(self) -> Manifest:
        files = [
            FileEntry(path, len(data), digest=sha256(data) if self.states_sha256 else None, etag=f'"{self.version}-{path}"')
            for path, data in self.contents.items()
        ]
        return manifest_of(self.authority, "", files, revision=self.version)

    @property
    def artifact(self) -> ArtifactId:
        return self.manifest.artifact

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.contents.values()))


def sha256(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def content(size_bytes: int, seed: str = "") -> bytes:
    """The same bytes for the same seed."""
    return hashlib.shake_128(f"prestage {seed}".encode()).digest(size_bytes)


def blob_of(data: bytes) -> BlobId:
    """The name of these bytes, by the definition in docs/format.md."""
    return tree_digest(len(data), [record.digest for record in records_of(data)])


def records_of(data: bytes) -> list[PieceRecord]:
    """What the engine finds out about each piece."""
    records = []
    for piece in range(piece_count(len(data))):
        start, stop = piece_span(len(data), piece)
        hasher = piece_hasher()
        hasher.update(data[start:stop])
        sums = [chunk_sum(data[at : min(at + CHUNK_BYTES, stop)]) for at in range(start, stop, CHUNK_BYTES)]
        records.append(PieceRecord(piece, stop - start, hasher.digest(), b"".join(sums)))
    return records


def fill(ingest: Ingest, data: bytes, *, on_piece: Callable[[int], None] = lambda _: None) -> None:
    """Write and journal, piece by piece, what the ingest lacks."""
    for record in records_of(data):
        if record.piece in ingest.journaled():
            continue
        start, stop = piece_span(len(data), record.piece)
        buffer = aligned_buffer(stop - start)
        buffer[:] = data[start:stop]
        ingest.write(buffer, start)
        ingest.journal([record])
        on_piece(record.piece)


@dataclass(slots=True)
class Steps:
    """Told of everything that the store said was done; a crash must not take it back."""

    ack: Callable[[str], None] = lambda _: None
    fetched: list[str] = field(default_factory=list)
    """Files whose bytes were asked of the origin."""


@contextmanager
def ingesting(store: Store, model: Model, path: str) -> Iterator[Ingest]:
    entry = next(file for file in model.manifest.files if file.path == path)
    ingest = store.ingest(model.manifest, entry)
    try:
        yield ingest
    finally:
        ingest.close()


def fetch(store: Store, model: Model, path: str, steps: Steps | None = None) -> None:
    """One file, from its ingest to its binding."""
    steps = steps or Steps()
    data = model.contents[path]
    with ingesting(store, model, path) as ingest:
        if len(ingest.journaled()) < piece_count(len(data)):
            steps.fetched.append(path)
        journaled = not ingest.is_light  # of a little file nothing is durable before it is published
        fill(ingest, data, on_piece=lambda piece: steps.ack(f"piece {path} {piece}") if journaled else None)
        blob = ingest.finish(digests=[sha256(data)])
        steps.ack(f"blob {blob}")
        store.bind(model.artifact, {path: blob})
        steps.ack(f"bound {path}")


def stage(store: Store, model: Model, steps: Steps | None = None) -> None:
    """What `staging.py` does, with the bytes at hand."""
    with store.room.staging(model.artifact):
        _stage(store, model, steps or Steps())


def stage_together(store: Store, model: Model, steps: Steps) -> None:
    """As the stager does with many files: fetched, then published in one go."""
    with store.room.staging(model.artifact):
        artifact = store.put_manifest(model.manifest)
        missing = store.missing(artifact)
        with store.reserve(model.size_bytes, artifact=artifact):
            ingests = {file.path: store.ingest(model.manifest, file) for file in missing}
            for path, ingest in ingests.items():
                steps.fetched.append(path)
                fill(ingest, model.contents[path])
            blobs = finish_all([(ingest, [sha256(model.contents[path])]) for path, ingest in ingests.items()])
            for blob in blobs:
                steps.ack(f"blob {blob}")
            store.bind(artifact, dict(zip(ingests, blobs, strict=True)))
            for path in ingests:
                steps.ack(f"bound {path}")
        store.publish_view(artifact)
        steps.ack("view")


def _stage(store: Store, model: Model, steps: Steps) -> None:
    artifact = store.put_manifest(model.manifest)
    steps.ack("manifest")
    missing = []
    for file in store.missing(artifact):
        if (blob := store.reusable(model.manifest, file)) is not None:
            store.bind(artifact, {file.path: blob})
        else:
            missing.append(file)
    with store.reserve(sum(file.size_bytes for file in missing), artifact=artifact):
        for file in missing:
            fetch(store, model, file.path, steps)
    store.publish_view(artifact)
    steps.ack("view")
    store.record_ref(model.name, Patterns(), artifact)
    steps.ack("ref")
