"""The names of bytes: piece, chunk and tree digests, and the written forms of each. Pure.

    blob    = size + BLAKE3 of each 16 MiB piece      ->  blake3-tree:<hex>
              BLAKE3.derive_key("prestage blob v1") over u64le(size) and the 32-byte piece digests in order
    chunk   = xxh3-128 of each 4 MiB                  for speed (damage), not for trust (malice)
    artifact = SHA-256 of the manifest's RFC 8785 JSON ->  sha256:<hex>

On disk digests are lower-case hex without prefix; in JSON, API and command line they carry their algorithm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NewType

import blake3
import xxhash

from prestage.cacher.errors import Misconfigured

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE_BYTES = 16 << 20
"""What is fetched, journaled, proved and shared at once. design.md, "Words"."""
CHUNK_BYTES = 4 << 20
"""What the loader and the scrubber check at once. Divides PIECE_BYTES."""
CHUNK_SUM_BYTES = 16
PIECE_DIGEST_BYTES = 32

ArtifactId = NewType("ArtifactId", str)
"""`sha256:<64 hex>`: the name of an artifact."""
BlobId = NewType("BlobId", str)
"""`blake3-tree:<64 hex>`: the name of one file's content."""
Digest = NewType("Digest", str)
"""`<algorithm>:<hex>`: any other digest that somebody states (sha256, crc64nvme, crc32c, git-sha1)."""

_HEX64 = re.compile(r"[0-9a-f]{64}")
_TREE_CONTEXT = "prestage blob v1"


def piece_count(size_bytes: int) -> int:
    """Pieces of a file of this size; an empty file has none."""
    return -(-size_bytes // PIECE_BYTES)


def piece_span(size_bytes: int, piece: int) -> tuple[int, int]:
    """First byte and first byte after `piece` (numbered from 0)."""
    start = piece * PIECE_BYTES
    return start, min(start + PIECE_BYTES, size_bytes)


def chunk_count(size_bytes: int) -> int:
    """Chunks of a file of this size; an empty file has none."""
    return -(-size_bytes // CHUNK_BYTES)


def piece_hasher() -> blake3.blake3:
    """A fresh BLAKE3 for one piece; `update` releases the GIL and takes memoryviews."""
    return blake3.blake3()


def chunk_sum(data: Buffer) -> bytes:
    """xxh3-128 of one chunk, 16 bytes, big-endian as `hexdigest` writes it."""
    return xxhash.xxh3_128_digest(data)


def tree_digest(size_bytes: int, piece_digests: Iterable[bytes]) -> BlobId:
    """The blob's name from its size and its 32-byte piece digests in order."""
    tree = blake3.blake3(derive_key_context=_TREE_CONTEXT)
    tree.update(size_bytes.to_bytes(8, "little"))
    for digest in piece_digests:
        tree.update(digest)
    return BlobId(f"blake3-tree:{tree.hexdigest()}")


def artifact_id(text: str) -> ArtifactId:
    """Parse `sha256:<hex>`.

    Raises:
        Misconfigured: not of that form.
    """
    algorithm, _, value = text.partition(":")
    if algorithm != "sha256" or not _HEX64.fullmatch(value):
        raise Misconfigured(
            f"{text!r} is not an artifact",
            hint="an artifact is sha256: and 64 lower-case hex digits, as `prestage ls` prints",
        )
    return ArtifactId(text)


def blob_id(text: str) -> BlobId:
    """Parse `blake3-tree:<hex>`.

    Raises:
        Misconfigured: not of that form.
    """
    algorithm, _, value = text.partition(":")
    if algorithm != "blake3-tree" or not _HEX64.fullmatch(value):
        raise Misconfigured(f"{text!r} is not a blob", hint="a blob is blake3-tree: and 64 lower-case hex digits")
    return BlobId(text)


def hex_of(digest: str) -> str:
    """The bare hex of a prefixed digest: its form in file names."""
    return digest.partition(":")[2]
