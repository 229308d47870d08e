"""What a loader verifies an artifact's files against, as docs/format.md ("sums") has it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from prestage.cacher.digests import CHUNK_BYTES, ArtifactId, BlobId
from prestage.cacher.manifest import Manifest

FORMAT = 1
SIDE_FILES = ("manifest.json", "sums")
"""What lies beside an artifact's files."""
Table = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Content:
    """An artifact whose every file is known."""

    manifest: Manifest
    binding: Mapping[str, BlobId]
    chunks: Mapping[BlobId, tuple[int, bytes]]
    """Size and chunk sums of each blob."""


def side_files(content: Content) -> dict[str, bytes]:
    """manifest.json and sums."""
    table = {file.path: entry(content, file.path) for file in content.manifest.files}
    return {"manifest.json": content.manifest.to_bytes(), "sums": document(content.manifest.artifact, table)}


def entry(content: Content, path: str) -> dict[str, object]:
    """What the sums say of one file."""
    size_bytes, chunks = content.chunks[content.binding[path]]
    return {"size": size_bytes, "chunks": chunks.hex()}


def document(artifact: ArtifactId, table: Table) -> bytes:
    """The file `sums`."""
    head = {"format": FORMAT, "artifact": artifact, "algorithm": "xxh3-128", "chunk_bytes": CHUNK_BYTES}
    return json.dumps({**head, "files": table}).encode()
